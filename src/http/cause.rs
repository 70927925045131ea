//! The causes of errors, for logs.

/// Returns the innermost cause of an error, because hyper's outer texts are as general as "client error (Connect)". One line of
/// at most 300 characters, because a peer can influence the text.
#[must_use]
pub fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string().chars().filter(|c| !c.is_control()).take(300).collect()
}
