//! The secret that operators log in with.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

/// The shortest token that a file may hold, in letters and digits.
const MIN_TOKEN_LENGTH: usize = 32;

/// A token: 256 random bits from the kernel, as 64 hexadecimal digits; or what a token file holds.
#[derive(Clone)]
pub struct LoginToken(String);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The kernel gives no random bytes.
    #[error(
        "landfall cannot make a login token, because the kernel gives no random bytes: {0}; name a \
         file that already holds one with --token-file"
    )]
    Random(io::Error),
    /// The file holds something else.
    #[error(
        "--token-file {}: the file does not hold a token, which has at least {MIN_TOKEN_LENGTH} letters \
         and digits and nothing else; remove it, and landfall serve creates a new one",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The file exists and cannot be read.
    #[error("--token-file {}: cannot read it: {source}; name a file that can be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is missing and cannot be created.
    #[error(
        "--token-file {}: cannot create it: {source}; name a file in a directory that can be written",
        path.display()
    )]
    Create {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl LoginToken {
    /// Makes a new token.
    ///
    /// # Errors
    /// [`TokenError::Random`].
    pub fn generate() -> Result<LoginToken, TokenError> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| TokenError::Random(error.into()))?;
        Ok(LoginToken(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Reads the token in a file. Creates the file, readable by its owner alone, if it is missing.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn read_or_create(path: &Path) -> Result<LoginToken, TokenError> {
        match fs::read_to_string(path) {
            Ok(text) => {
                let text = text.trim();
                let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
                match plain && text.len() >= MIN_TOKEN_LENGTH {
                    true => Ok(LoginToken(text.to_owned())),
                    false => Err(TokenError::Malformed { path: path.to_owned() }),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let token = LoginToken::generate()?;
                let created =
                    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
                created
                    .and_then(|mut file| writeln!(file, "{}", token.0))
                    .map_err(|source| TokenError::Create { path: path.to_owned(), source })?;
                Ok(token)
            }
            Err(source) => Err(TokenError::Read { path: path.to_owned(), source }),
        }
    }

    /// Returns the token as it is shown to the operator.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether a text is this token. The time that takes does not depend on what differs.
    pub fn matches(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tokens_are_never_the_same_and_each_matches_only_itself() {
        let (one, other) = (LoginToken::generate().unwrap(), LoginToken::generate().unwrap());
        assert!(one.matches(one.as_str()));
        for wrong in [other.as_str(), "", &one.as_str()[1..], &format!("{}0", one.as_str())] {
            assert!(!one.matches(wrong));
        }
    }

    #[test]
    fn a_token_file_gives_the_same_token_again_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let first = LoginToken::read_or_create(&file).unwrap();
        assert_eq!(LoginToken::read_or_create(&file).unwrap().as_str(), first.as_str());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_holds_no_token_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "short\n").unwrap();
        let error = LoginToken::read_or_create(&file).err().unwrap();
        assert!(matches!(error, TokenError::Malformed { .. }));
        assert!(error.to_string().contains("remove it"), "{error}");
        let missing = folder.path().join("missing/token");
        let error = LoginToken::read_or_create(&missing).err().unwrap();
        assert!(matches!(error, TokenError::Create { .. }), "{error}");
    }
}
