use super::*;

#[test]
fn a_browser_is_shown_by_its_name() {
    let check = |agent: &str, name: &str| assert_eq!(browser(agent), name, "{agent}");
    check("Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0", "Firefox on Linux");
    check(
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0 Safari/537.36 Edg/156.0",
        "Edge on Windows",
    );
    check(
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19 Safari/605.1.15",
        "Safari on macOS",
    );
    check("", "Unknown browser");
    check("curl/8", "curl/8");
}
