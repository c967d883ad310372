//! Test accounts: a SIP address, and a credential file.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use adsum_presence::accounts::Row;

use super::Refused;
use crate::exit;

/// Longest credential file that is read: only its first line counts.
const LONGEST: u64 = 64 * 1024;

/// What a user needs besides the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret<'a> {
    /// Nothing: the pool asks for nothing, or trusts the connection.
    None,
    /// What the credential file says.
    File(&'a Path),
    /// Asked for on the terminal, if there is one; the flag or key that would name a file.
    Ask(&'a str),
}

/// A SIP address and what its credential file says.
pub fn account(uri: &str, secret: Secret<'_>) -> Result<Row, Refused> {
    let mut row = Row { uri: uri.as_bytes().to_vec(), ..Row::default() };
    let text = match secret {
        Secret::None => return Ok(row),
        Secret::Ask(_) if std::io::stdin().is_terminal() => {
            let password = rpassword::prompt_password(format!("Password of {uri}: "))
                .map_err(|e| (exit::CONFIGURATION, format!("no password was given: {e}")))?;
            row.password = password.into_bytes();
            return Ok(row);
        }
        Secret::Ask(flag) => {
            return Err((exit::CONFIGURATION, format!("{flag} is missing: a file with user:password")));
        }
        Secret::File(path) => read(path)?,
    };
    credentials(&mut row, &text).map_err(|e| (exit::CONFIGURATION, format!("credentials of {uri}: {e}")))?;
    Ok(row)
}

fn read(path: &Path) -> Result<String, Refused> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(LONGEST).read_to_string(&mut text)
    } else {
        warn_if_open(path);
        std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text))
    };
    let name = if path == Path::new("-") { "standard input".into() } else { path.to_string_lossy() };
    read.map_err(|e| (exit::CONFIGURATION, format!("{name}: {e}")))?;
    Ok(text)
}

/// First line: `user:password`, or `ha1:REALM:user:HEX`.
fn credentials(row: &mut Row, text: &str) -> Result<(), String> {
    let line = text.trim_start_matches('\u{feff}').lines().next().unwrap_or("").trim_end_matches('\r');
    let (user, secret) = line.split_once(':').ok_or("the first line has no colon; write user:password")?;
    if user == "ha1" {
        let mut parts = secret.splitn(3, ':');
        let (_realm, user, hex) = (parts.next(), parts.next(), parts.next());
        let (user, hex) = user.zip(hex).ok_or("write ha1:REALM:user:HEX")?;
        if !matches!(hex.len(), 32 | 64) || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("the hash has to be 32 or 64 hex digits".to_owned());
        }
        row.auth_user = user.as_bytes().to_vec();
        row.ha1 = hex.as_bytes().to_vec();
        return Ok(());
    }
    if secret.is_empty() {
        return Err("nothing stands behind the colon; write user:password".to_owned());
    }
    row.auth_user = user.as_bytes().to_vec();
    row.password = secret.as_bytes().to_vec();
    Ok(())
}

fn warn_if_open(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    // What systemd hands over (LoadCredential) is readable by an access list, which looks like the group.
    if std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|dir| path.starts_with(dir)) {
        return;
    }
    if std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0) {
        eprintln!("adsum: {} can be read by others: chmod 600 it", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read() {
        let read = |text: &str| {
            let mut row = Row::default();
            credentials(&mut row, text).map(|()| row)
        };
        let row = read("\u{feff}LOADLAB\\alice:pa:ss\r\nmore").unwrap();
        assert_eq!(
            (row.auth_user.as_slice(), row.password.as_slice()),
            (&b"LOADLAB\\alice"[..], &b"pa:ss"[..])
        );
        let row = read(&format!("ha1:pool.test:alice:{}", "a".repeat(32))).unwrap();
        assert_eq!((row.auth_user.as_slice(), row.ha1.len()), (&b"alice"[..], 32));
        assert!(read("nothing").is_err() && read("ha1:r:u:zz").is_err() && read("alice:").is_err());
    }
}
