//! A query has one spelling: what is sent holds the pairs that were read, and so does the text for the parser of browsers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::http::{Query, Repeated};
use url::form_urlencoded;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(query) = Query::parse(text) else { return };
    let sent = query.encoded();
    let again = Query::parse(&sent).expect("what is sent is a query");
    assert_eq!(again, query);
    assert_eq!(again.encoded(), sent);
    for text in [text, &sent] {
        let theirs: Vec<_> = form_urlencoded::parse(text.as_bytes()).collect();
        assert!(query.pairs().eq(theirs.iter().map(|(name, value)| (&**name, &**value))), "{theirs:?}");
    }
    for (name, value) in query.pairs() {
        let only = if query.all(name).count() == 1 { Ok(Some(value)) } else { Err(Repeated) };
        assert_eq!(query.only(name), only);
    }
});
