//! Who may see and who may change something: only with the token, and only from landfall's own pages.

use super::page_server::PageServer;

/// A guest that the page lists once it was added.
const ADDED_GUEST: &str = "unix:/run/added-by-the-test.qmp";
const ADD_FORM: &str = "monitor=unix%3A%2Frun%2Fadded-by-the-test.qmp";

fn is_added(server: &PageServer) -> bool {
    let page = server.get("/");
    assert_eq!(page.status, 200, "{page:?}");
    page.body.contains(ADDED_GUEST)
}

#[test]
fn without_the_token_nothing_is_shown_and_nothing_changes() {
    let server = PageServer::start(&[]);
    let origin = format!("Origin: http://{}", server.address());
    let wrong = "0".repeat(64);
    for proof in [
        vec![],
        vec![format!("Cookie: landfall={wrong}")],
        vec![format!("Cookie: landfall={}", server.token())],
        vec![format!("Cookie: other={}", server.token())],
        vec![format!("Authorization: Bearer {wrong}")],
        vec![format!("Authorization: Basic {}", server.token())],
    ] {
        let proof: Vec<&str> = proof.iter().map(String::as_str).collect();
        for page in ["/", "/migrations", "/guests/1/implied", "/migrations/x/events"] {
            let shown = server.request(&format!("GET {page}"), &proof, "");
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
            let changed = server.request(&format!("POST {change}"), &headers, ADD_FORM);
            assert_eq!(changed.status, 401, "{change} {proof:?} {changed:?}");
        }
    }
    assert!(!is_added(&server));
}

#[test]
fn the_login_cookie_is_hidden_from_scripts_and_other_sites() {
    let server = PageServer::start(&[]);
    let origin = format!("Origin: http://{}", server.address());
    let login = |token: &str| server.request("POST /login", &[&origin], &format!("token={token}"));
    let refused = login(&"0".repeat(64));
    assert_eq!(refused.status, 401);
    assert!(!refused.head.contains("set-cookie") && refused.body.contains("not the token"));
    let accepted = login(server.token());
    assert_eq!(accepted.status, 303, "{accepted:?}");
    let cookie = accepted.head.lines().find(|line| line.starts_with("set-cookie: ")).unwrap();
    for part in ["httponly", "samesite=strict", "path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let pair = cookie["set-cookie: ".len()..].split(';').next().unwrap();
    let page = server.request("GET /", &[&format!("Cookie: {pair}")], "");
    assert_eq!(page.status, 200, "{page:?}");
    assert!(!pair.contains(server.token()), "the cookie is not the token");
    let session = server.cookie();
    let out = server.post("/logout", "");
    assert!(out.head.contains("landfall=; ") && out.head.contains("max-age=0"), "{out:?}");
    assert_eq!(server.request("GET /", &[&session], "").status, 303, "the session is over");
    let other = server.request("GET /", &[&format!("Cookie: {pair}")], "");
    assert_eq!(other.status, 200, "another browser's is not");
}

#[test]
fn a_page_of_another_site_changes_nothing_in_a_browser_that_is_logged_in() {
    let server = PageServer::start(&[]);
    let own = format!("Origin: http://{}", server.address());
    let other_port = format!("Origin: http://{}:1", server.address().ip());
    let cookie = server.cookie();
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
        let answer = server.request("POST /guests", &headers, ADD_FORM);
        assert_eq!(answer.status, 403, "{headers:?} {answer:?}");
        let answer = server.request("POST /login", &headers, &format!("token={}", server.token()));
        assert_eq!(answer.status, 403, "{headers:?} {answer:?}");
    }
    let embedded = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", &cookie];
    assert_eq!(server.request("GET /", &embedded, "").status, 403);
    assert!(!is_added(&server));
    assert_eq!(server.post("/guests", ADD_FORM).status, 303, "the page itself may");
    assert!(is_added(&server));
}

#[test]
fn requests_for_other_host_names_are_refused() {
    let server = PageServer::start(&["--name", "vmhost.example"]);
    let port = server.address().port();
    let cookie = server.cookie();
    for (host, status) in [
        (format!("Host: evil.example:{port}"), 421),
        (format!("Host: 127.0.0.1.evil.example:{port}"), 421),
        ("X-No-Host: x".to_owned(), 421),
        (format!("Host: localhost:{port}"), 200),
        (format!("Host: vmhost.example:{port}"), 200),
    ] {
        let answer = server.request_with_headers("GET /", &[&host, &cookie], "");
        assert_eq!(answer.status, status, "{host} {answer:?}");
        let origin = host.replacen("Host: ", "Origin: http://", 1);
        let headers = [host.as_str(), &origin, "Sec-Fetch-Site: same-origin", &cookie];
        let answer = server.request_with_headers("POST /guests", &headers, "monitor=x");
        assert_eq!(answer.status, if status == 200 { 400 } else { 421 }, "{host} {answer:?}");
    }
}

#[test]
fn a_get_request_changes_nothing() {
    let server = PageServer::start(&[]);
    for path in [
        "/guests",
        "/guests/1/look",
        "/guests/1/start",
        "/migrations/x/cancel",
        "/migrations/x/set",
        "/logout",
    ] {
        let answer = server.get(&format!("{path}?{ADD_FORM}"));
        assert_eq!(answer.status, 405, "{path} {answer:?}");
    }
    assert!(!is_added(&server));
    for path in ["/nothing", "/guests/1", "/migrations/..%2f..%2fetc%2fpasswd", "/migrations/%00"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
}

#[test]
fn a_script_sends_the_token_with_each_request() {
    let server = PageServer::start(&[]);
    let bearer = format!("Authorization: Bearer {}", server.token());
    assert_eq!(server.request("GET /", &[&bearer], "").status, 200);
    assert_eq!(server.request("POST /guests", &[&bearer], ADD_FORM).status, 303);
    assert!(is_added(&server));
}

#[test]
fn public_read_shows_pages_without_the_token_and_allows_no_change() {
    let server = PageServer::start(&["--public-read"]);
    let origin = format!("Origin: http://{}", server.address());
    assert_eq!(server.request("GET /", &[], "").status, 200);
    assert_eq!(server.request("POST /guests", &[&origin], ADD_FORM).status, 401);
    assert!(!is_added(&server));
}

#[test]
fn pages_load_nothing_from_other_hosts_and_run_no_inline_script() {
    let server = PageServer::start(&["--guest", "unix:/nowhere/vm.qmp"]);
    for path in ["/", "/migrations", "/login", "/nothing"] {
        let page = server.get(path);
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
        let asset = server.request(&format!("GET {asset}"), &[], "");
        assert_eq!(asset.status, 200);
        assert!(!asset.body.contains("@import") && !asset.body.contains("https://"));
    }
}

#[test]
fn the_name_of_a_guest_is_shown_and_never_run_as_a_script() {
    let server = PageServer::start(&[]);
    let script = "monitor=unix%3A%2Frun%2F%3Cscript%3Ealert(1)%3C%2Fscript%3E.qmp";
    assert_eq!(server.post("/guests", script).status, 303);
    let page = server.get("/");
    assert!(page.body.contains("&lt;script&gt;") && !page.body.contains("<script>"), "{page:?}");
}
