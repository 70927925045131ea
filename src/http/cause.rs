//! Why something failed, for logs.

/// What happened in the end: the words around it, hyper's, are "client error (Connect)". One line of at most 300
/// characters, for a peer may have chosen some of them.
#[must_use]
pub fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string().chars().filter(|c| !c.is_control()).take(300).collect()
}
