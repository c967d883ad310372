//! The files that a scenario names: users, passwords, certificates.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::model::{Password, Scenario, Users};

/// Largest users' file: four million rows of a hundred bytes and more.
const USERS_MAX: u64 = 1024 * 1024 * 1024;
/// Largest file of certificates, keys or a password.
const SMALL_MAX: u64 = 4 * 1024 * 1024;

/// The content of the files that a scenario names; empty where it names none. Holds secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// `users.from`.
    pub users_csv: Vec<u8>,
    /// `users.password_file`.
    pub password_file: Vec<u8>,
    /// `pool.tls.ca`.
    pub ca_pem: Vec<u8>,
    /// `pool.tls.cert`.
    pub cert_pem: Vec<u8>,
    /// `pool.tls.key`.
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inputs({} bytes of users, <redacted>)", self.users_csv.len())
    }
}

/// A file that a scenario names cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// The system says no.
    #[error("`{key}` = {}: {source}", path.display())]
    Read {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing that such a file may be.
    #[error("`{key}` = {}: longer than {limit} bytes", path.display())]
    TooLong {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Largest size.
        limit: u64,
    },
}

impl Inputs {
    /// Reads all of them. Relative paths count from `dir`, the folder of the scenario.
    ///
    /// # Errors
    /// [`InputsError`] for each file that cannot be read.
    pub fn load(scenario: &Scenario, dir: &Path) -> Result<Inputs, Vec<InputsError>> {
        let mut errors = Vec::new();
        let mut load =
            |key, path: Option<&str>, limit| match path.map(|path| read(key, &dir.join(path), limit)) {
                None => Vec::new(),
                Some(Ok(content)) => content,
                Some(Err(error)) => {
                    errors.push(error);
                    Vec::new()
                }
            };
        let (from, password_file) = match &scenario.users {
            Users::File { from } => (Some(from.as_str()), None),
            Users::Pattern { password: Password::File(path), .. } => (None, Some(path.as_str())),
            Users::Pattern { .. } => (None, None),
        };
        let tls = &scenario.pool.tls;
        let inputs = Inputs {
            users_csv: load("users.from", from, USERS_MAX),
            password_file: load("users.password_file", password_file, SMALL_MAX),
            ca_pem: load("pool.tls.ca", tls.ca.as_deref(), SMALL_MAX),
            cert_pem: load("pool.tls.cert", tls.cert.as_deref(), SMALL_MAX),
            key_pem: load("pool.tls.key", tls.key.as_deref(), SMALL_MAX),
        };
        if errors.is_empty() { Ok(inputs) } else { Err(errors) }
    }
}

fn read(key: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, InputsError> {
    let mut content = Vec::new();
    // One byte more than allowed tells too long from just right, whatever kind of file it is.
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut content));
    match read {
        Err(source) => Err(InputsError::Read { key, path: path.to_owned(), source }),
        Ok(_) if content.len() as u64 > limit => {
            Err(InputsError::TooLong { key, path: path.to_owned(), limit })
        }
        Ok(_) => Ok(content),
    }
}
