//! TLS inside a connection, by rustls' unbuffered interface: a session keeps
//! its keys and the part of a record that has come so far, nothing else. All
//! other bytes pass through buffers of the shard.
//!
//! A session touches no socket. Ciphertext goes in, plaintext and ciphertext
//! to send come out.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, Error};

/// Room that a record takes beyond its plaintext: header, padding, tag; generous.
pub(super) const RECORD_OVERHEAD: usize = 64;
/// Plaintext of one record at most (RFC 8446 §5.1).
pub(super) const RECORD: usize = 16 * 1024;
/// States that one call may pass through; a handshake takes about a dozen.
const MAX_STATES: usize = 1_024;

/// Where a session stands after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The handshake wants more bytes of the server.
    Handshaking,
    /// Messages may be written.
    Open,
    /// The server has said that nothing more will come.
    Closed,
}

/// One TLS session of a client.
pub struct Session {
    inner: UnbufferedClientConnection,
    name: ServerName<'static>,
    /// The beginning of a record that is not complete.
    rest: Vec<u8>,
    open: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("name", &self.name).field("open", &self.open).finish_non_exhaustive()
    }
}

impl Session {
    /// A session that has not begun; [`Session::advance`] without bytes begins it.
    ///
    /// # Errors
    /// Those of rustls, for a name or settings that cannot be used.
    pub fn new(config: &Arc<ClientConfig>, name: &ServerName<'static>) -> Result<Self, Error> {
        let inner = UnbufferedClientConnection::new(Arc::clone(config), name.clone())?;
        Ok(Session { inner, name: name.clone(), rest: Vec::new(), open: false })
    }

    /// The name that has to stand in the server's certificate.
    #[must_use]
    pub fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// Copies what was kept of an incomplete record to the front of `input`
    /// and answers its length: what is read next belongs behind it.
    pub fn restore(&mut self, input: &mut Vec<u8>) -> usize {
        let kept = std::mem::take(&mut self.rest);
        if input.len() < kept.len() + RECORD + RECORD_OVERHEAD {
            input.resize(kept.len() + RECORD + RECORD_OVERHEAD, 0);
        }
        input[..kept.len()].copy_from_slice(&kept);
        kept.len()
    }

    /// Takes ciphertext, all of it: what [`Session::restore`] gave back and
    /// what came behind it. Appends plaintext to `plain`, and to `sealed` what
    /// has to be sent — also after an error: the alert that says why.
    ///
    /// # Errors
    /// What rustls refuses: a certificate, a record, an alert of the server.
    pub fn advance(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        sealed: &mut Vec<u8>,
    ) -> Result<Standing, Error> {
        let mut at = 0;
        let mut closed = false;
        for _ in 0..MAX_STATES {
            let UnbufferedStatus { mut discard, state, .. } =
                self.inner.process_tls_records(&mut input[at..]);
            let standing = match state {
                Err(error) => {
                    self.alert(&mut input[at + discard..], sealed);
                    return Err(error);
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                    None
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, sealed)?;
                    None
                }
                // The caller sends `sealed` in any case.
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => {
                    closed = true;
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Standing::Handshaking),
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.open = true;
                    Some(if closed { Standing::Closed } else { Standing::Open })
                }
                Ok(ConnectionState::Closed) => Some(Standing::Closed),
                Ok(other) => return Err(Error::General(format!("unexpected state {other:?}"))),
            };
            at += discard;
            if let Some(standing) = standing {
                self.rest.extend_from_slice(&input[at..]);
                return Ok(standing);
            }
        }
        Err(Error::General("the session does not come to rest".to_owned()))
    }

    /// Appends a message as records.
    ///
    /// # Errors
    /// When the session is not open, or its keys are used up.
    pub fn seal(&mut self, plain: &[u8], sealed: &mut Vec<u8>) -> Result<(), Error> {
        let room = plain.len() + RECORD_OVERHEAD * (1 + plain.len() / RECORD);
        self.write(sealed, |traffic, sealed| {
            grow(sealed, room, |room| match traffic.encrypt(plain, room) {
                Ok(written) => Ok(written),
                Err(EncryptError::InsufficientSize(wanted)) => Err(Some(wanted.required_size)),
                Err(EncryptError::EncryptExhausted) => Err(None),
            })
        })
    }

    /// Appends the alert that says goodbye; nothing if the session is not open.
    pub fn close(&mut self, sealed: &mut Vec<u8>) {
        let closed = self.write(sealed, |traffic, sealed| {
            grow(sealed, RECORD_OVERHEAD, |room| match traffic.queue_close_notify(room) {
                Ok(written) => Ok(written),
                Err(EncryptError::InsufficientSize(wanted)) => Err(Some(wanted.required_size)),
                Err(EncryptError::EncryptExhausted) => Err(None),
            })
        });
        // A session that was never open has nobody to say goodbye to.
        drop(closed);
    }

    fn write(
        &mut self,
        sealed: &mut Vec<u8>,
        mut with: impl FnMut(&mut WriteTraffic<'_, ClientConnectionData>, &mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !self.open {
            return Err(Error::HandshakeNotComplete);
        }
        // A handshake message in parts refers to the bytes that are kept, so they have to be shown again.
        let mut rest = std::mem::take(&mut self.rest);
        let mut at = 0;
        let mut result = Err(Error::General("the session does not come to rest".to_owned()));
        for _ in 0..MAX_STATES {
            let UnbufferedStatus { discard, state, .. } = self.inner.process_tls_records(&mut rest[at..]);
            at += discard;
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    result = with(&mut traffic, sealed);
                    break;
                }
                // A change of keys goes out first.
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    if let Err(error) = encode(data, sealed) {
                        result = Err(error);
                        break;
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => {}
                Ok(other) => {
                    result = Err(Error::General(format!("cannot write in state {other:?}")));
                    break;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        rest.drain(..at);
        self.rest = rest;
        result
    }

    /// After an error the next state holds the alert for the other side. It is the only one that is
    /// asked for: the one after it would be made of what came, which is refused again, and in builds
    /// with its assertions rustls panics at a second alert.
    fn alert(&mut self, input: &mut [u8], sealed: &mut Vec<u8>) {
        if let Ok(ConnectionState::EncodeTlsData(data)) = self.inner.process_tls_records(input).state {
            // What cannot be written leaves the other side without a reason, and us with ours.
            drop(encode(data, sealed));
        }
    }
}

/// Appends a handshake record or an alert.
fn encode<D>(mut data: EncodeTlsData<'_, D>, sealed: &mut Vec<u8>) -> Result<(), Error> {
    grow(sealed, RECORD_OVERHEAD, |room| match data.encode(room) {
        Ok(written) => Ok(written),
        Err(EncodeError::InsufficientSize(wanted)) => Err(Some(wanted.required_size)),
        Err(EncodeError::AlreadyEncoded) => Err(None),
    })
}

/// Appends what `write` writes into the room it is given; it may ask for more
/// (`Err(Some(size))`) once.
fn grow(
    out: &mut Vec<u8>,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), Error> {
    let start = out.len();
    let mut room = room;
    for _ in 0..2 {
        out.resize(start + room, 0);
        match write(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(Some(wanted)) => room = wanted,
            Err(None) => break,
        }
    }
    out.truncate(start);
    Err(Error::General("a record could not be written".to_owned()))
}
