//! Who may do what.
//!
//! Each route needs one right ([`AccessRight`]); [`required_right`] decides which:
//!
//! | Route | Right | Without the token | What it does |
//! |---|---|---|---|
//! | `GET /login` | open | yes | shows the login |
//! | `POST /login` | open | yes | checks the token, opens a session and sets the cookie |
//! | `GET /style.css`, `/page.js`, `/icon.svg` | open | yes | style sheet, script, icon |
//! | `GET /` | read | with `--public-read` | lists guests |
//! | `GET /guests/{id}` | read | with `--public-read` | shows a guest, its settings and what they imply |
//! | `GET /guests/{id}/implied` | read | with `--public-read` | the same, as parts of that page |
//! | `GET /migrations` | read | with `--public-read` | lists migrations |
//! | `GET /migrations/{name}` | read | with `--public-read` | shows a migration |
//! | `GET /migrations/{name}/events` | read | with `--public-read` | follows a migration |
//! | `POST /guests` | change | no | adds a guest to the list |
//! | `POST /guests/{id}/look` | change | no | probes a guest |
//! | `POST /guests/{id}/start` | change | no | starts a migration |
//! | `POST /migrations/{name}/set` | change | no | changes the settings of a migration |
//! | `POST /migrations/{name}/cancel` | change | no | cancels a migration |
//! | `POST /logout` | change | no | ends the session and removes the cookie |
//! | anything else with `GET` or `HEAD` | read | with `--public-read` | "no such page" |
//! | anything else with another method | change | no | "no such page" |
//!
//! A browser gets a session for the token at the login and shows that as a cookie; below, to show the
//! token means either. Any other client sends `Authorization: Bearer TOKEN` with each request.
//!
//! Before the right is looked at, every request, open routes included, has to pass two checks:
//!
//! 1. It must be sent to a name of this host: an IP address, `localhost`, or a `--name`. A page of
//!    another site can let its own name point to this host (DNS rebinding).
//! 2. It must not be made by a page of another site. A request other than `GET` or `HEAD` must come from
//!    one of these pages, as the browser says by `Origin` or `Sec-Fetch-Site`, or bear the token.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, ORIGIN, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use super::listen::is_ip_address;
use super::sessions::LoginSessions;
use super::token::{LoginToken, TokenError};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The cookie's name without TLS.
const COOKIE_NAME: &str = "landfall";

/// The cookie's name with TLS. Browsers let only encrypted pages of this very host set it.
const TLS_COOKIE_NAME: &str = "__Host-landfall";

/// Lets pages load from this host alone, and only the two files as script and style.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
                              img-src 'self' data:; connect-src 'self'; form-action 'self'; \
                              base-uri 'none'; frame-ancestors 'none'";

/// Routes that need no token.
const OPEN_PATHS: [&str; 4] = ["/login", "/style.css", "/page.js", "/icon.svg"];

/// The longest part of a header that a refusal repeats.
const MAX_SHOWN_HEADER: usize = 100;

/// What a route needs; the table is at the head of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessRight {
    /// Nothing.
    Open,
    /// To see guests and migrations: the token, or `--public-read`.
    Read,
    /// To do something: the token.
    Change,
}

/// Returns the right that a request needs.
pub fn required_right(method: &Method, path: &str) -> AccessRight {
    if OPEN_PATHS.contains(&path) {
        AccessRight::Open
    } else if is_read(method) {
        AccessRight::Read
    } else {
        AccessRight::Change
    }
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// Why a request is not let through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessRefusal {
    /// It has no `Host` header.
    #[error("The request names no host. Send a Host header with the address of this page.")]
    NoHost,
    /// It was sent to a name that is not known as one of this host's.
    #[error(
        "landfall serve does not know {host:?} as a name of this host. Open the page by the host's IP \
         address; or, if this is one of its names, start landfall serve with --name and that name."
    )]
    UnknownHost {
        /// The name.
        host: String,
    },
    /// A page of another site embeds or fetches this one.
    #[error(
        "A page of another site asked for this page. Nothing was shown to it. Open the address of \
         landfall serve in a tab of its own."
    )]
    EmbeddedByOtherSite,
    /// A change that another page asked for.
    #[error(
        "The request came from {origin:?}, which is not this page. Nothing was changed. Open the \
         address of landfall serve itself and repeat it there."
    )]
    OtherOrigin {
        /// What the browser says of the page.
        origin: String,
    },
    /// A change with neither the sign of a browser nor the token.
    #[error(
        "The request does not say which page it came from. Nothing was changed. A browser sends an \
         Origin header; a script sends the header Authorization: Bearer TOKEN."
    )]
    UnknownOrigin,
    /// A person opens a page without the token.
    #[error("Log in at /login with the token that landfall serve printed when it started.")]
    LoginNeeded,
    /// A script, or a change, without the token.
    #[error(
        "The token is missing or wrong. Nothing was done. Log in at /login with the token that \
         landfall serve printed when it started, or send the header Authorization: Bearer TOKEN."
    )]
    TokenNeeded,
}

impl IntoResponse for AccessRefusal {
    fn into_response(self) -> Response {
        let status = match self {
            AccessRefusal::LoginNeeded => return Redirect::to("/login").into_response(),
            AccessRefusal::TokenNeeded => {
                let scheme = [(WWW_AUTHENTICATE, "Bearer")];
                return (StatusCode::UNAUTHORIZED, scheme, self.to_string()).into_response();
            }
            AccessRefusal::NoHost | AccessRefusal::UnknownHost { .. } => {
                StatusCode::MISDIRECTED_REQUEST
            }
            AccessRefusal::EmbeddedByOtherSite
            | AccessRefusal::OtherOrigin { .. }
            | AccessRefusal::UnknownOrigin => StatusCode::FORBIDDEN,
        };
        (status, self.to_string()).into_response()
    }
}

/// What requests are checked against.
pub struct AccessControl {
    pub token: LoginToken,
    /// The browsers that have logged in with it.
    pub sessions: LoginSessions,
    /// Names of this host besides its addresses and `localhost`.
    pub host_names: Vec<String>,
    /// Whether the page is served over TLS.
    pub encrypted: bool,
    /// Whether the right to read takes no token.
    pub public_read: bool,
}

impl AccessControl {
    /// Opens a session and returns the `Set-Cookie` value that logs a browser in.
    ///
    /// # Errors
    /// [`TokenError::Random`].
    pub fn login_cookie(&self) -> Result<String, TokenError> {
        let (name, secure) = self.cookie_name();
        let session = self.sessions.open(Instant::now())?;
        Ok(format!("{name}={session}; Path=/; HttpOnly; SameSite=Strict{secure}"))
    }

    /// Ends the session that a request shows.
    pub fn close_session(&self, headers: &HeaderMap) {
        self.login_cookies(headers).for_each(|session| self.sessions.close(session));
    }

    /// Returns the `Set-Cookie` value that logs a browser out.
    pub fn logout_cookie(&self) -> String {
        let (name, secure) = self.cookie_name();
        format!("{name}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0{secure}")
    }

    fn cookie_name(&self) -> (&'static str, &'static str) {
        if self.encrypted { (TLS_COOKIE_NAME, "; Secure") } else { (COOKIE_NAME, "") }
    }

    /// Decides on a request.
    ///
    /// # Errors
    /// [`AccessRefusal`].
    pub fn check(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), AccessRefusal> {
        self.check_host(headers)?;
        check_not_embedded(headers)?;
        if !is_read(method) {
            self.check_origin(headers)?;
        }
        let right = required_right(method, path);
        let granted = match right {
            AccessRight::Open => true,
            AccessRight::Read => self.public_read || self.shows_token(headers),
            AccessRight::Change => self.shows_token(headers),
        };
        let by_script = header(headers, &SEC_FETCH_MODE).is_some_and(|mode| mode != "navigate");
        match right {
            _ if granted => Ok(()),
            AccessRight::Read if !by_script => Err(AccessRefusal::LoginNeeded),
            _ => Err(AccessRefusal::TokenNeeded),
        }
    }

    /// Checks that the request was sent to a name of this host.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), AccessRefusal> {
        let host = header(headers, &HOST).ok_or(AccessRefusal::NoHost)?;
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let is_name = |known: &String| known.eq_ignore_ascii_case(name);
        let known = name.eq_ignore_ascii_case("localhost")
            || is_ip_address(name)
            || self.host_names.iter().any(is_name);
        if known { Ok(()) } else { Err(AccessRefusal::UnknownHost { host: shortened(host) }) }
    }

    /// Checks that a request for a change comes from one of these pages, as its browser says, or bears
    /// the token.
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), AccessRefusal> {
        let site = header(headers, &SEC_FETCH_SITE);
        let origin = header(headers, &ORIGIN);
        let other = || {
            let origin = origin.or(site).unwrap_or_default();
            AccessRefusal::OtherOrigin { origin: shortened(origin) }
        };
        if site.is_some_and(|site| site != "same-origin") {
            return Err(other());
        }
        let scheme = if self.encrypted { "https" } else { "http" };
        let Some(origin) = origin else {
            let known = site.is_some() || self.has_bearer_token(headers);
            return if known { Ok(()) } else { Err(AccessRefusal::UnknownOrigin) };
        };
        let host = origin.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
        match host.is_some() && host == header(headers, &HOST) {
            true => Ok(()),
            false => Err(other()),
        }
    }

    /// Returns whether the request shows the token as a header, or a session as a cookie.
    fn shows_token(&self, headers: &HeaderMap) -> bool {
        self.has_bearer_token(headers) || self.has_login_cookie(headers)
    }

    fn has_bearer_token(&self, headers: &HeaderMap) -> bool {
        let value = header(headers, &AUTHORIZATION);
        value
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|token| self.token.matches(token))
    }

    fn has_login_cookie(&self, headers: &HeaderMap) -> bool {
        let now = Instant::now();
        self.login_cookies(headers).any(|session| self.sessions.contains(session, now))
    }

    /// Returns the values of the cookies that have the login cookie's name.
    fn login_cookies<'a>(&self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a str> + use<'a> {
        let (name, _) = self.cookie_name();
        let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs = all.flat_map(|value| value.split(';')).filter_map(|it| it.split_once('='));
        pairs.filter(move |(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    }
}

/// Checks that no page of another site embeds or fetches this. Links from other sites are allowed.
fn check_not_embedded(headers: &HeaderMap) -> Result<(), AccessRefusal> {
    let other_site = matches!(header(headers, &SEC_FETCH_SITE), Some("cross-site" | "same-site"));
    match other_site && header(headers, &SEC_FETCH_MODE) != Some("navigate") {
        true => Err(AccessRefusal::EmbeddedByOtherSite),
        false => Ok(()),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_SHOWN_HEADER).collect()
}

/// Passes a request on to the pages if it may pass, and adds the security headers to the answer.
pub async fn guard_request(
    State(access): State<Arc<AccessControl>>,
    request: Request,
    next: Next,
) -> Response {
    let checked = access.check(request.method(), request.uri().path(), request.headers());
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    add_security_headers(response.headers_mut());
    response
}

fn add_security_headers(headers: &mut HeaderMap) {
    let always = [
        (CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in always {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(encrypted: bool) -> AccessControl {
        let token = LoginToken::generate().unwrap();
        let host_names = vec!["vmhost.example".into()];
        let sessions = LoginSessions::default();
        AccessControl { token, sessions, host_names, encrypted, public_read: false }
    }

    fn headers(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&HeaderName, &str)| {
            ((*name).clone(), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn without_the_token_only_open_routes_pass_and_reading_does_with_public_read() {
        let host = (&HOST, "127.0.0.1:7700");
        let here = (&ORIGIN, "http://127.0.0.1:7700");
        let script = (&SEC_FETCH_MODE, "cors");
        for (method, path, more, private, public) in [
            (Method::GET, "/login", vec![], None, None),
            (Method::POST, "/login", vec![here], None, None),
            (Method::GET, "/page.js", vec![], None, None),
            (Method::GET, "/", vec![], Some(AccessRefusal::LoginNeeded), None),
            (Method::HEAD, "/migrations", vec![], Some(AccessRefusal::LoginNeeded), None),
            (
                Method::GET,
                "/guests/1/implied",
                vec![script],
                Some(AccessRefusal::TokenNeeded),
                None,
            ),
            (
                Method::POST,
                "/guests",
                vec![here],
                Some(AccessRefusal::TokenNeeded),
                Some(AccessRefusal::TokenNeeded),
            ),
            (
                Method::DELETE,
                "/nothing",
                vec![here],
                Some(AccessRefusal::TokenNeeded),
                Some(AccessRefusal::TokenNeeded),
            ),
        ] {
            let headers = headers(&[&[host], more.as_slice()].concat());
            for (public_read, expected) in [(false, private), (true, public)] {
                let access = AccessControl { public_read, ..access(false) };
                let decided = access.check(&method, path, &headers).err();
                assert_eq!(decided, expected, "{method} {path}, public read {public_read}");
            }
        }
    }

    #[test]
    fn a_page_of_another_site_may_link_here_and_not_embed() {
        for (site, mode, passes) in [
            ("cross-site", "navigate", true),
            ("cross-site", "no-cors", false),
            ("same-site", "cors", false),
            ("same-origin", "cors", true),
        ] {
            let all = headers(&[(&SEC_FETCH_SITE, site), (&SEC_FETCH_MODE, mode)]);
            assert_eq!(check_not_embedded(&all).is_ok(), passes, "{site} {mode}");
        }
    }

    #[test]
    fn only_names_of_this_host_are_answered() {
        for (host, ours) in [
            ("127.0.0.1:7700", true),
            ("[::1]:7700", true),
            ("localhost", true),
            ("LOCALHOST:7700", true),
            ("vmhost.example:7700", true),
            ("evil.example:7700", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:7700", false),
            ("", false),
        ] {
            assert_eq!(
                access(false).check_host(&headers(&[(&HOST, host)])).is_ok(),
                ours,
                "{host}"
            );
        }
        assert_eq!(access(false).check_host(&HeaderMap::new()), Err(AccessRefusal::NoHost));
    }

    #[test]
    fn a_change_is_taken_from_this_page_or_with_the_token_in_a_header() {
        let access = access(false);
        let bearer = format!("Bearer {}", access.token.as_str());
        let host = (&HOST, "127.0.0.1:7700");
        for (more, from_here) in [
            (vec![(&ORIGIN, "http://127.0.0.1:7700")], true),
            (vec![(&ORIGIN, "http://127.0.0.1:7700"), (&SEC_FETCH_SITE, "same-origin")], true),
            (vec![(&SEC_FETCH_SITE, "same-origin")], true),
            (vec![(&AUTHORIZATION, bearer.as_str())], true),
            (vec![], false),
            (vec![(&ORIGIN, "null")], false),
            (vec![(&ORIGIN, "http://127.0.0.1:7701")], false),
            (vec![(&ORIGIN, "https://127.0.0.1:7700")], false),
            (vec![(&ORIGIN, "http://evil.example")], false),
            (vec![(&ORIGIN, "http://127.0.0.1:7700"), (&SEC_FETCH_SITE, "same-site")], false),
            (vec![(&SEC_FETCH_SITE, "cross-site"), (&AUTHORIZATION, bearer.as_str())], false),
            (vec![(&SEC_FETCH_SITE, "none")], false),
        ] {
            let all = [&[host], more.as_slice()].concat();
            assert_eq!(access.check_origin(&headers(&all)).is_ok(), from_here, "{more:?}");
        }
    }

    #[test]
    fn a_cookie_of_another_name_is_not_the_login() {
        let access = access(true);
        let cookie = access.login_cookie().unwrap();
        assert!(!cookie.contains(access.token.as_str()), "the cookie is not the token");
        assert!(cookie.starts_with("__Host-landfall=") && cookie.ends_with("; Secure"), "{cookie}");
        let pair = cookie.split(';').next().unwrap();
        let other = format!("a=b; {pair}");
        let logged_in = headers(&[(&COOKIE, &other)]);
        assert!(access.shows_token(&logged_in));
        let plain = pair.replace("__Host-landfall", "landfall");
        assert!(!access.shows_token(&headers(&[(&COOKIE, &plain)])));
        assert!(!access.shows_token(&HeaderMap::new()));
        access.close_session(&logged_in);
        assert!(
            !access.shows_token(&logged_in),
            "a cookie that was kept is of no use after the logout"
        );
    }
}
