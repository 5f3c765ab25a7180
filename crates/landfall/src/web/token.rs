//! The secret that operators log in with.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

/// The shortest token that a file may hold, in letters and digits.
const MIN_TOKEN_LENGTH: usize = 32;

/// No token file is longer; `/dev/zero` would be read without end.
const MAX_FILE_BYTES: u64 = 4096;

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
    /// The file is open to other users.
    #[error(
        "--token-file {}: it belongs to user {owner_uid} and has mode {mode:03o}, so that other users may \
         know or choose the token; make it your own and chmod 600 it, or remove it, and landfall serve \
         creates a new one",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The user it belongs to.
        owner_uid: u32,
        /// Its permissions.
        mode: u32,
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
        match read_private(path)? {
            Some(text) => {
                let text = text.trim();
                let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
                match plain && text.len() >= MIN_TOKEN_LENGTH {
                    true => Ok(LoginToken(text.to_owned())),
                    false => Err(TokenError::Malformed { path: path.to_owned() }),
                }
            }
            None => {
                let token = LoginToken::generate()?;
                let created =
                    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
                created
                    .and_then(|mut file| writeln!(file, "{}", token.0))
                    .map_err(|source| TokenError::Create { path: path.to_owned(), source })?;
                Ok(token)
            }
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

/// Reads a file that only landfall's user or root can read or write; `None` if there is no such file.
fn read_private(path: &Path) -> Result<Option<String>, TokenError> {
    let failed = |source| TokenError::Read { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let found = file.metadata().map_err(failed)?;
    let (owner_uid, mode) = (found.uid(), found.mode() & 0o777);
    let ours = owner_uid == 0 || owner_uid == rustix::process::geteuid().as_raw();
    if !ours || mode & 0o077 != 0 {
        return Err(TokenError::Exposed { path: path.to_owned(), owner_uid, mode });
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
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

    fn set_mode(file: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_token_file_that_other_users_can_read_or_write_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        LoginToken::read_or_create(&file).unwrap();
        for mode in [0o644, 0o640, 0o602, 0o620] {
            set_mode(&file, mode);
            let error = LoginToken::read_or_create(&file).err().unwrap();
            assert!(matches!(error, TokenError::Exposed { .. }), "{mode:o}: {error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        set_mode(&file, 0o600);
        assert!(LoginToken::read_or_create(&file).is_ok());
    }

    #[test]
    fn a_file_that_holds_no_token_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "short\n").unwrap();
        set_mode(&file, 0o600);
        let error = LoginToken::read_or_create(&file).err().unwrap();
        assert!(matches!(error, TokenError::Malformed { .. }));
        assert!(error.to_string().contains("remove it"), "{error}");
        let missing = folder.path().join("missing/token");
        let error = LoginToken::read_or_create(&missing).err().unwrap();
        assert!(matches!(error, TokenError::Create { .. }), "{error}");
    }
}
