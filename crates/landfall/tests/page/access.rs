//! Who is shown something, and who can change something: nobody without the token, and no page but ours.

use crate::serving::Serving;

/// A guest that shows when it was added.
const MARK: &str = "unix:/run/added-by-the-test.qmp";
const ADD: &str = "monitor=unix%3A%2Frun%2Fadded-by-the-test.qmp";

fn is_added(serving: &Serving) -> bool {
    let page = serving.get("/");
    assert_eq!(page.status, 200, "{page:?}");
    page.body.contains(MARK)
}

#[test]
fn without_the_token_nothing_is_shown_and_nothing_is_changed() {
    let serving = Serving::start(&[]);
    let origin = format!("Origin: http://{}", serving.address());
    let wrong = "0".repeat(64);
    for proof in [
        vec![],
        vec![format!("Cookie: landfall={wrong}")],
        vec![format!("Cookie: landfall={}", &serving.token()[1..])],
        vec![format!("Cookie: other={}", serving.token())],
        vec![format!("Authorization: Bearer {wrong}")],
        vec![format!("Authorization: Basic {}", serving.token())],
    ] {
        let proof: Vec<&str> = proof.iter().map(String::as_str).collect();
        for page in ["/", "/migrations", "/guests/1/implied", "/migrations/x/events"] {
            let shown = serving.ask(&format!("GET {page}"), &proof, "");
            assert_eq!(shown.status, 303, "{page} {proof:?} {shown:?}");
            assert!(shown.head.contains("location: /login") && shown.body.is_empty(), "{shown:?}");
        }
        for change in [
            "/guests",
            "/guests/1/look",
            "/guests/1/start",
            "/migrations/x/cancel",
            "/migrations/x/set",
        ] {
            let headers = [&proof[..], &[&origin, "Sec-Fetch-Site: same-origin"]].concat();
            let changed = serving.ask(&format!("POST {change}"), &headers, ADD);
            assert_eq!(changed.status, 401, "{change} {proof:?} {changed:?}");
        }
    }
    assert!(!is_added(&serving));
}

#[test]
fn the_login_gives_a_cookie_that_no_script_and_no_other_site_gets() {
    let serving = Serving::start(&[]);
    let origin = format!("Origin: http://{}", serving.address());
    let login = |token: &str| serving.ask("POST /login", &[&origin], &format!("token={token}"));
    let refused = login(&"0".repeat(64));
    assert_eq!(refused.status, 401);
    assert!(!refused.head.contains("set-cookie") && refused.body.contains("not the token"));
    let let_in = login(serving.token());
    assert_eq!(let_in.status, 303, "{let_in:?}");
    let cookie = let_in.head.lines().find(|line| line.starts_with("set-cookie: ")).unwrap();
    for part in ["httponly", "samesite=strict", "path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let pair = cookie["set-cookie: ".len()..].split(';').next().unwrap();
    let page = serving.ask("GET /", &[&format!("Cookie: {pair}")], "");
    assert_eq!(page.status, 200, "{page:?}");
    let out = serving.post("/logout", "");
    assert!(out.head.contains("landfall=; ") && out.head.contains("max-age=0"), "{out:?}");
}

#[test]
fn a_page_of_another_site_changes_nothing_even_in_a_browser_that_is_logged_in() {
    let serving = Serving::start(&[]);
    let own = format!("Origin: http://{}", serving.address());
    let other_port = format!("Origin: http://{}:1", serving.address().ip());
    let cookie = format!("Cookie: landfall={}", serving.token());
    for headers in [
        vec!["Origin: http://evil.example", "Sec-Fetch-Site: cross-site"],
        vec!["Origin: http://evil.example"],
        vec!["Origin: null"],
        vec![other_port.as_str(), "Sec-Fetch-Site: same-site"],
        vec![other_port.as_str()],
        vec![own.as_str(), "Sec-Fetch-Site: cross-site"],
        vec!["Sec-Fetch-Site: none"],
        vec![],
    ] {
        let headers = [&headers[..], &[&cookie]].concat();
        let answer = serving.ask("POST /guests", &headers, ADD);
        assert_eq!(answer.status, 403, "{headers:?} {answer:?}");
        let answer = serving.ask("POST /login", &headers, &format!("token={}", serving.token()));
        assert_eq!(answer.status, 403, "{headers:?} {answer:?}");
    }
    let embedded = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", &cookie];
    assert_eq!(serving.ask("GET /", &embedded, "").status, 403);
    assert!(!is_added(&serving));
    assert_eq!(serving.post("/guests", ADD).status, 303, "the page itself may");
    assert!(is_added(&serving));
}

#[test]
fn a_name_that_is_not_this_hosts_is_not_answered() {
    let serving = Serving::start(&["--name", "vmhost.example"]);
    let port = serving.address().port();
    let cookie = format!("Cookie: landfall={}", serving.token());
    for (host, status) in [
        (format!("Host: evil.example:{port}"), 421),
        (format!("Host: 127.0.0.1.evil.example:{port}"), 421),
        ("X-No-Host: x".to_owned(), 421),
        (format!("Host: localhost:{port}"), 200),
        (format!("Host: vmhost.example:{port}"), 200),
    ] {
        let answer = serving.say("GET /", &[&host, &cookie], "");
        assert_eq!(answer.status, status, "{host} {answer:?}");
        let origin = host.replacen("Host: ", "Origin: http://", 1);
        let headers = [host.as_str(), &origin, "Sec-Fetch-Site: same-origin", &cookie];
        let answer = serving.say("POST /guests", &headers, "monitor=x");
        assert_eq!(answer.status, if status == 200 { 400 } else { 421 }, "{host} {answer:?}");
    }
}

#[test]
fn looking_at_a_page_changes_nothing() {
    let serving = Serving::start(&[]);
    for path in [
        "/guests",
        "/guests/1/look",
        "/guests/1/start",
        "/migrations/x/cancel",
        "/migrations/x/set",
        "/logout",
    ] {
        let answer = serving.get(&format!("{path}?{ADD}"));
        assert_eq!(answer.status, 405, "{path} {answer:?}");
    }
    assert!(!is_added(&serving));
    for path in ["/nothing", "/guests/1", "/migrations/..%2f..%2fetc%2fpasswd", "/migrations/%00"] {
        assert_eq!(serving.get(path).status, 404, "{path}");
    }
}

#[test]
fn a_program_shows_the_token_with_each_request() {
    let serving = Serving::start(&[]);
    let bearer = format!("Authorization: Bearer {}", serving.token());
    assert_eq!(serving.ask("GET /", &[&bearer], "").status, 200);
    assert_eq!(serving.ask("POST /guests", &[&bearer], ADD).status, 303);
    assert!(is_added(&serving));
}

#[test]
fn with_public_read_everybody_looks_and_nobody_changes() {
    let serving = Serving::start(&["--public-read"]);
    let origin = format!("Origin: http://{}", serving.address());
    assert_eq!(serving.ask("GET /", &[], "").status, 200);
    assert_eq!(serving.ask("POST /guests", &[&origin], ADD).status, 401);
    assert!(!is_added(&serving));
}

#[test]
fn no_page_takes_anything_from_another_host_or_runs_what_is_written_in_it() {
    let serving = Serving::start(&["--guest", "unix:/nowhere/vm.qmp"]);
    for path in ["/", "/migrations", "/login", "/nothing"] {
        let page = serving.get(path);
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "frame-ancestors 'none'",
        ] {
            assert!(page.head.contains(rule), "{path}: {}", page.head);
        }
        assert!(page.head.contains("x-content-type-options: nosniff"));
        assert!(page.head.contains("cache-control: no-store"), "{}", page.head);
        for foreign in [
            "http://",
            "https://",
            "href=\"//",
            "src=\"//",
            "<style",
            "style=",
            " onclick",
            "<script>",
        ] {
            assert!(!page.body.contains(foreign), "{path} has {foreign}: {}", page.body);
        }
    }
    for asset in ["/style.css", "/page.js", "/icon.svg"] {
        let asset = serving.ask(&format!("GET {asset}"), &[], "");
        assert_eq!(asset.status, 200);
        assert!(!asset.body.contains("@import") && !asset.body.contains("https://"));
    }
}

#[test]
fn what_somebody_called_a_guest_is_shown_and_never_run() {
    let serving = Serving::start(&[]);
    let script = "monitor=unix%3A%2Frun%2F%3Cscript%3Ealert(1)%3C%2Fscript%3E.qmp";
    assert_eq!(serving.post("/guests", script).status, 303);
    let page = serving.get("/");
    assert!(page.body.contains("&lt;script&gt;") && !page.body.contains("<script>"), "{page:?}");
}
