//! Cutting messages out of a stream (RFC 3261 §18.3).
//!
//! The caller owns the bytes; this module only says where the next message
//! ends. On a stream `Content-Length` is mandatory: without it, and with a
//! `Content-Type`, nobody can know where the next message begins.

use memchr::memchr;

use crate::header::HeaderId;
use crate::value;

/// Longer header blocks are refused.
pub const MAX_HEAD: usize = 64 * 1024;
/// Longer bodies are refused.
pub const MAX_BODY: usize = 1024 * 1024;

/// What stands at the beginning of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Only line breaks so far, that many bytes: keep-alives (RFC 5626 §4.4.1).
    KeepAlive(usize),
    /// One message in these bytes, line breaks before it not included.
    Message {
        /// Where it begins.
        begin: usize,
        /// Where it ends, and the next one begins.
        end: usize,
    },
    /// The message is not complete.
    More,
}

/// Why the stream cannot be read any further: it has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The headers do not end within [`MAX_HEAD`].
    #[error("a header block of more than {MAX_HEAD} bytes")]
    HeadTooLong,
    /// The body is longer than [`MAX_BODY`].
    #[error("a body of {0} bytes, more than {MAX_BODY}")]
    BodyTooLong(u32),
    /// There is a body and no length.
    #[error("a message with Content-Type and no Content-Length on a stream")]
    NoLength,
    /// The length is not one number.
    #[error("Content-Length is not one number")]
    BadLength,
}

/// Looks for the next message in `bytes`.
///
/// # Errors
/// [`FrameError`]: the stream has no recognisable next message.
pub fn next(bytes: &[u8]) -> Result<Frame, FrameError> {
    let begin = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(bytes.len());
    if begin == bytes.len() {
        return Ok(if begin == 0 { Frame::More } else { Frame::KeepAlive(begin) });
    }
    let Some((head, length)) = head(&bytes[begin..]) else {
        return if bytes.len() - begin > MAX_HEAD { Err(FrameError::HeadTooLong) } else { Ok(Frame::More) };
    };
    if head > MAX_HEAD {
        return Err(FrameError::HeadTooLong);
    }
    let length = length?;
    if length as usize > MAX_BODY {
        return Err(FrameError::BodyTooLong(length));
    }
    let end = begin + head + length as usize;
    Ok(if end <= bytes.len() { Frame::Message { begin, end } } else { Frame::More })
}

/// The index after the empty line, and the length of the body; `None` if the
/// headers do not end here. Bare line feeds are tolerated, also next to CRLF,
/// because the scanner does so: both must see the same end.
///
/// Every byte of a stream passes through here, so it is one pass, and only the
/// headers that may be the two of interest are looked at.
fn head(bytes: &[u8]) -> Option<(usize, Result<u32, FrameError>)> {
    let mut length: Result<Option<u32>, FrameError> = Ok(None);
    let mut typed = false;
    let mut at = line_end(bytes);
    while at < bytes.len() && at <= MAX_HEAD {
        let begin = at;
        match bytes[begin..] {
            [b'\n', ..] | [b'\r', b'\n', ..] => {
                let end = begin + if bytes[begin] == b'\n' { 1 } else { 2 };
                let length = length.and_then(|length| match length {
                    Some(length) => Ok(length),
                    None if typed => Err(FrameError::NoLength),
                    None => Ok(0),
                });
                return Some((end, length));
            }
            _ => at += line_end(&bytes[begin..]),
        }
        if !matches!(bytes[begin], b'c' | b'C' | b'l' | b'L') {
            continue;
        }
        // A header with the lines it is folded over.
        while matches!(bytes.get(at), Some(b' ' | b'\t')) {
            at += line_end(&bytes[at..]);
        }
        let field = &bytes[begin..at];
        let Some(colon) = memchr(b':', field) else { continue };
        match HeaderId::of(field[..colon].trim_ascii()) {
            HeaderId::ContentLength => {
                let value = value::number(&field[colon + 1..]);
                // A wrong one is told when all of the headers are here.
                length = match (length, value) {
                    (Ok(before), Some(value)) if before.is_none_or(|before| before == value) => {
                        Ok(Some(value))
                    }
                    _ => Err(FrameError::BadLength),
                };
            }
            HeaderId::ContentType => typed = true,
            _ => {}
        }
    }
    None
}

/// The index after the first line.
fn line_end(bytes: &[u8]) -> usize {
    memchr(b'\n', bytes).map_or(bytes.len(), |feed| feed + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"\r\n\r\nSIP/2.0 200 OK\r\nl: 2\r\n\r\nhiSIP/2.0 180 Ringing\r\nVia: x\r\n\r\n";

    #[test]
    fn every_split_gives_the_same_messages() {
        for cut in 0..=TWO.len() {
            let mut buffer = Vec::new();
            let mut found = Vec::new();
            for part in [&TWO[..cut], &TWO[cut..]] {
                buffer.extend_from_slice(part);
                loop {
                    match next(&buffer).unwrap() {
                        Frame::KeepAlive(n) => drop(buffer.drain(..n)),
                        Frame::Message { begin, end } => {
                            found.push(buffer[begin..end].to_vec());
                            buffer.drain(..end);
                        }
                        Frame::More => break,
                    }
                }
            }
            assert_eq!(found, [TWO[4..30].to_vec(), TWO[30..].to_vec()], "cut at {cut}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn mixed_line_ends_and_folds_are_framed_as_they_are_scanned() {
        let message = Frame::Message { begin: 0, end: 25 };
        assert_eq!(next(b"A b SIP/2.0\nl:\r\n 2  \n\r\nhi\r\n\r\n"), Ok(message));
        assert_eq!(next(b"A\r\nl: 1\r\n 2\r\n\r\n"), Err(FrameError::BadLength));
    }

    #[test]
    fn what_cannot_be_framed_is_named() {
        assert_eq!(next(b"A\r\nc: x\r\n\r\n"), Err(FrameError::NoLength));
        assert_eq!(next(b"A\r\nl: x\r\n\r\n"), Err(FrameError::BadLength));
        assert_eq!(next(b"A\r\nl: 1\r\nContent-Length: 2\r\n\r\n"), Err(FrameError::BadLength));
        assert_eq!(next(b"A\r\nl: 1048577\r\n\r\n"), Err(FrameError::BodyTooLong(1_048_577)));
        assert_eq!(next(&[b'a'; MAX_HEAD + 1]), Err(FrameError::HeadTooLong));
    }
}
