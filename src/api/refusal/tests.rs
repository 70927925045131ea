use super::*;

#[test]
fn errors_of_other_modules_say_what_to_do_and_nothing_internal() {
    let check = |refusal: Refusal, status: u16, retry_after: Option<&str>| {
        let response = refusal.into_response();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap()), retry_after);
    };
    check(authn::Error::Busy.into(), 503, Some("2"));
    let retry_after = Duration::from_millis(1500);
    check(authn::Error::TooManyAttempts { retry_after }.into(), 429, Some("2"));
    check(authn::Error::Missing.into(), 500, None);
    check(store::Error::Exists("x".to_owned()).into(), 400, None);
    check(store::Error::NotFound("x".to_owned()).into(), 404, None);
    check(store::Error::LastAdmin("x".to_owned()).into(), 400, None);
    check(store::Error::Corrupt("secret".to_owned()).into(), 500, None);
    check(store::Error::Open("secret".to_owned()).into(), 503, Some("5"));
}
