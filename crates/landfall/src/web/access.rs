//! Who may do what: a token for everything, and no word from a page of somebody else.
//!
//! Before anything else is looked at, a request must have come to a name of this host (a page of
//! somebody else can have its own name lead here), and not from another site. Then it must know the
//! token: as a cookie, which a browser gets at the login, or as `Authorization: Bearer`. What changes
//! something is only ever asked for by POST, and then the browser must say that the request comes from
//! this very page.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, ORIGIN, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use subtle::ConstantTimeEq;

use super::listen::is_an_address;

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The cookie's name. One that only encrypted pages of this very host can have set is better, where
/// there is encryption.
const PLAIN: &str = "landfall";
const SECURE: &str = "__Host-landfall";

/// Nothing but what comes from here, and no script or style but the two files.
const CONTENTS: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
                        connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A token: 256 bits from the kernel, as 64 digits.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn new() -> io::Result<Token> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::from)?;
        Ok(Token(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The one in a file, which is made, for its owner alone, where it is missing.
    ///
    /// # Errors
    /// In words: what is in it is no token, or it cannot be read or made.
    pub fn kept_in(path: &Path) -> Result<Token, String> {
        let failed = |problem: String| format!("--token-file {}: {problem}", path.display());
        match fs::read_to_string(path) {
            Ok(text) => {
                let token = Token(text.trim().to_owned());
                let long =
                    token.0.len() >= 32 && token.0.bytes().all(|b| b.is_ascii_alphanumeric());
                let remedy = "it holds no token of at least 32 letters and digits; remove it, and \
                              another is made";
                if long { Ok(token) } else { Err(failed(remedy.to_owned())) }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let token = Token::new().map_err(|error| failed(error.to_string()))?;
                let made =
                    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
                made.and_then(|mut file| writeln!(file, "{}", token.0))
                    .map_err(|error| failed(format!("{error}; name a file that can be written")))?;
                Ok(token)
            }
            Err(error) => Err(failed(format!("{error}; name a file that can be read"))),
        }
    }

    /// As it is told to the operator.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a text is this token, in the same time whatever is wrong with it.
    pub fn is(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

/// What is asked of a request.
#[derive(Clone)]
pub struct Access {
    pub token: Token,
    /// Names of this host besides its addresses and `localhost`.
    pub names: Vec<String>,
    pub encrypted: bool,
    pub public_read: bool,
}

impl Access {
    /// The header with which a browser is let in from now on.
    pub fn cookie(&self) -> String {
        let (name, secure) = self.cookie_name();
        format!("{name}={}; Path=/; HttpOnly; SameSite=Strict{secure}", self.token.0)
    }

    /// The header with which it is not any more.
    pub fn no_cookie(&self) -> String {
        let (name, secure) = self.cookie_name();
        format!("{name}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0{secure}")
    }

    fn cookie_name(&self) -> (&'static str, &'static str) {
        if self.encrypted { (SECURE, "; Secure") } else { (PLAIN, "") }
    }

    /// Whether the request knows the token.
    pub fn knows(&self, headers: &HeaderMap) -> bool {
        self.bears(headers) || self.has_cookie(headers)
    }

    fn bears(&self, headers: &HeaderMap) -> bool {
        let value = text(headers, &AUTHORIZATION);
        value
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|token| self.token.is(token))
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let (name, _) = self.cookie_name();
        let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|it| it.split_once('='));
        pairs.any(|(key, value)| key.trim() == name && self.token.is(value.trim()))
    }

    /// Whether the name that the request was sent to is one of this host's.
    fn is_our_name(&self, headers: &HeaderMap) -> bool {
        let Some(host) = text(headers, &HOST) else { return false };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let ours = |known: &String| known.eq_ignore_ascii_case(name);
        name.eq_ignore_ascii_case("localhost") || is_an_address(name) || self.names.iter().any(ours)
    }

    /// Whether a request that would change something comes from this very page. A browser says so
    /// itself; whoever is no browser shows the token with each request instead.
    fn is_from_here(&self, headers: &HeaderMap) -> bool {
        if let Some(site) = text(headers, &SITE)
            && site != "same-origin"
        {
            return false;
        }
        let scheme = if self.encrypted { "https" } else { "http" };
        match (text(headers, &ORIGIN), text(headers, &HOST)) {
            (Some(origin), Some(host)) => {
                origin.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) == Some(host)
            }
            (None, _) => text(headers, &SITE).is_some() || self.bears(headers),
            (Some(_), None) => false,
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a page of another site embeds or fetches this: it may at most lead here.
fn is_used_elsewhere(headers: &HeaderMap) -> bool {
    let elsewhere = matches!(text(headers, &SITE), Some("cross-site" | "same-site"));
    elsewhere && text(headers, &MODE) != Some("navigate")
}

/// Lets a request through to the pages, or not.
pub async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let changes = request.method() != Method::GET && request.method() != Method::HEAD;
    let refusal = if !access.is_our_name(headers) {
        Some((
            StatusCode::MISDIRECTED_REQUEST,
            "This is not a name of this host. Use its address, or start landfall serve with --name NAME.",
        ))
    } else if is_used_elsewhere(headers) || (changes && !access.is_from_here(headers)) {
        Some((
            StatusCode::FORBIDDEN,
            "Asked for by a page that is not landfall's. Nothing was done.",
        ))
    } else {
        None
    };
    let open = matches!(request.uri().path(), "/login" | "/style.css" | "/page.js" | "/icon.svg");
    let mut response = if let Some(refusal) = refusal {
        refusal.into_response()
    } else if open || access.knows(headers) || (access.public_read && !changes) {
        next.run(request).await
    } else if changes || text(headers, &MODE).is_some_and(|mode| mode != "navigate") {
        let how = [(WWW_AUTHENTICATE, "Bearer")];
        (StatusCode::UNAUTHORIZED, how, "The token is missing or wrong. Nothing was done.")
            .into_response()
    } else {
        Redirect::to("/login").into_response()
    };
    harden(response.headers_mut());
    response
}

fn harden(headers: &mut HeaderMap) {
    let always = [
        (CONTENT_SECURITY_POLICY, CONTENTS),
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

    fn access(encrypted: bool) -> Access {
        let token = Token::new().unwrap();
        Access { token, names: vec!["vmhost.example".into()], encrypted, public_read: false }
    }

    fn headers(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&HeaderName, &str)| {
            ((*name).clone(), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn two_tokens_are_never_the_same_and_each_is_only_itself() {
        let (one, other) = (Token::new().unwrap(), Token::new().unwrap());
        assert!(one.is(one.as_str()));
        for wrong in [other.as_str(), "", &one.as_str()[1..], &format!("{}0", one.as_str())] {
            assert!(!one.is(wrong));
        }
    }

    #[test]
    fn a_kept_token_is_the_same_again_and_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let first = Token::kept_in(&file).unwrap();
        assert_eq!(Token::kept_in(&file).unwrap().as_str(), first.as_str());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "short\n").unwrap();
        assert!(Token::kept_in(&file).err().unwrap().contains("remove it"));
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
            assert_eq!(access(false).is_our_name(&headers(&[(&HOST, host)])), ours, "{host}");
        }
        assert!(!access(false).is_our_name(&HeaderMap::new()));
    }

    #[test]
    fn a_change_is_taken_from_this_page_or_from_who_shows_the_token_each_time() {
        let access = access(false);
        let bearer = format!("Bearer {}", access.token.as_str());
        let host = (&HOST, "127.0.0.1:7700");
        for (more, from_here) in [
            (vec![(&ORIGIN, "http://127.0.0.1:7700")], true),
            (vec![(&ORIGIN, "http://127.0.0.1:7700"), (&SITE, "same-origin")], true),
            (vec![(&SITE, "same-origin")], true),
            (vec![(&AUTHORIZATION, bearer.as_str())], true),
            (vec![], false),
            (vec![(&ORIGIN, "null")], false),
            (vec![(&ORIGIN, "http://127.0.0.1:7701")], false),
            (vec![(&ORIGIN, "https://127.0.0.1:7700")], false),
            (vec![(&ORIGIN, "http://evil.example")], false),
            (vec![(&ORIGIN, "http://127.0.0.1:7700"), (&SITE, "same-site")], false),
            (vec![(&SITE, "cross-site"), (&AUTHORIZATION, bearer.as_str())], false),
            (vec![(&SITE, "none")], false),
        ] {
            let all = [&[host], more.as_slice()].concat();
            assert_eq!(access.is_from_here(&headers(&all)), from_here, "{more:?}");
        }
    }

    #[test]
    fn a_cookie_is_no_cookie_of_another_page() {
        let access = access(true);
        let cookie = access.cookie();
        assert!(cookie.starts_with("__Host-landfall=") && cookie.ends_with("; Secure"), "{cookie}");
        let pair = cookie.split(';').next().unwrap();
        let other = format!("a=b; {pair}");
        assert!(access.knows(&headers(&[(&COOKIE, &other)])));
        let plain = pair.replace("__Host-landfall", "landfall");
        assert!(!access.knows(&headers(&[(&COOKIE, &plain)])));
        assert!(!access.knows(&HeaderMap::new()));
    }
}
