//! Protection: what proves who sent a message, and that nobody changed it.
//!
//! It is called last when a message is written and first when one is read, so
//! that a scheme may sign everything in between. Digest (RFC 7616) answers
//! challenges in requests and looks at `rspauth`; the schemes of [MS-SIPAE]
//! sign every message in both directions over the fields in [`Outgoing`]. The
//! state machines know none of that: they hand over fields and keep a
//! [`Protection::State`] for each connection, or for each user where one
//! socket serves many, and an [`Attempts`] for each request.

use crate::digest::{self, Digest};
use crate::scan::Message;
use crate::sipae::Ntlm;

/// Who the users are, as far as it concerns their credentials.
pub trait Credentials {
    /// Appends the user name for authentication.
    fn write_user_name(&self, user: u32, out: &mut Vec<u8>);
    /// Appends the password; nothing if there is only an H(A1).
    fn write_password(&self, user: u32, out: &mut Vec<u8>);
    /// H(A1) in hex, if the user came with one (RFC 7616 §3.4.2).
    fn ha1(&self, user: u32) -> Option<&[u8]>;
}

/// A message that is complete but for its protection.
///
/// Texts are those of the message, byte for byte; URIs come without angle
/// brackets, tags without quotes, and what is absent is empty. Asserted
/// identities, which [MS-SIPAE] signs, too, are in no message of ours.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outgoing<'a> {
    /// The status code, 0 for a request.
    pub code: u16,
    /// The method; of a response the one in its CSeq.
    pub method: &'a [u8],
    /// The Request-URI; empty for a response.
    pub uri: &'a [u8],
    /// Call-ID.
    pub call_id: &'a [u8],
    /// Number of CSeq.
    pub cseq: u32,
    /// URI of From.
    pub from_uri: &'a [u8],
    /// Tag of From.
    pub from_tag: &'a [u8],
    /// URI of To.
    pub to_uri: &'a [u8],
    /// Tag of To.
    pub to_tag: &'a [u8],
    /// Seconds in the `Expires` header, if it has one.
    pub expires: Option<u32>,
    /// The body.
    pub body: &'a [u8],
}

/// A message that came in, before anything else looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// The message.
    pub message: &'a Message<'a>,
    /// The bytes of our request that it answers; empty for a request, and where ours carried no protection.
    pub request: &'a [u8],
}

/// What reading came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// It carries a proof, and that is right.
    Accepted,
    /// It carries a proof, and that is wrong. See [`Protection::drops_refused`].
    Refused,
    /// It carries no proof.
    Unprotected,
}

/// What follows from a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send the request again, as a new transaction: the credentials are ready.
    Answer,
    /// These credentials were refused. Never try them again.
    Rejected,
    /// No scheme, algorithm or quality that we speak.
    Unsupported,
}

/// What the owner keeps with a request from one attempt to the next; new for a
/// new request. It tells a server that changed its nonce from one that refuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts(pub(crate) u8);

/// A scheme. One value serves all users of a shard.
pub trait Protection {
    /// What is kept for a connection, or for a user.
    type State: Default + std::fmt::Debug;

    /// Appends the header lines that protect `outgoing`, each with its line
    /// break. The last call before the bytes leave: the lines go into the
    /// message's head and nothing in it changes afterwards.
    fn write(
        &mut self,
        state: &mut Self::State,
        accounts: &impl Credentials,
        user: u32,
        outgoing: &Outgoing<'_>,
        out: &mut Vec<u8>,
    );

    /// Checks a message and learns from it: a 2xx says that the credentials
    /// are right, and may name the next nonce.
    fn read(
        &mut self,
        state: &mut Self::State,
        accounts: &impl Credentials,
        user: u32,
        incoming: &Incoming<'_>,
    ) -> Reading;

    /// A 401 or 407 came. The owner bounds how often it answers.
    fn challenged(
        &mut self,
        state: &mut Self::State,
        accounts: &impl Credentials,
        user: u32,
        incoming: &Incoming<'_>,
        attempts: &mut Attempts,
    ) -> Verdict;

    /// The user has a new connection: what belonged to the old one is void. Credentials that were
    /// refused stay so.
    fn reconnected(&mut self, _state: &mut Self::State, _user: u32) {}

    /// Why the latest challenge was [`Verdict::Unsupported`], in words, if the scheme knows more than
    /// the challenge says.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// True if [`Protection::write`] has something for responses, too.
    fn signs_answers(&self) -> bool {
        false
    }

    /// True if a refused message is to be treated as if it never came, as
    /// signatures want it. Digest's `rspauth` is optional and proxies change
    /// what it covers, so there a refusal is only counted.
    fn drops_refused(&self) -> bool;
}

/// No credentials at all: a server that trusts where we come from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unprotected;

impl Protection for Unprotected {
    type State = ();

    fn write(&mut self, (): &mut (), _: &impl Credentials, _: u32, _: &Outgoing<'_>, _: &mut Vec<u8>) {}

    fn read(&mut self, (): &mut (), _: &impl Credentials, _: u32, _: &Incoming<'_>) -> Reading {
        Reading::Unprotected
    }

    fn challenged(
        &mut self,
        (): &mut (),
        _: &impl Credentials,
        _: u32,
        _: &Incoming<'_>,
        _: &mut Attempts,
    ) -> Verdict {
        Verdict::Unsupported
    }

    fn drops_refused(&self) -> bool {
        false
    }
}

/// One of the schemes, chosen when a run is planned. An enum, so that calls
/// are static and a user's state has one size.
#[derive(Debug)]
pub enum Scheme {
    /// See [`Unprotected`].
    None(Unprotected),
    /// See [`Digest`].
    Digest(Box<Digest>),
    /// See [`Ntlm`].
    Ntlm(Box<Ntlm>),
}

/// The same call to whichever scheme it is. Only digest keeps its state with the user.
macro_rules! delegate {
    ($scheme:expr, $state:ident, $one:ident => $call:expr) => {
        match $scheme {
            Scheme::None($one) => {
                let $state = &mut ();
                $call
            }
            Scheme::Digest($one) => $call,
            Scheme::Ntlm($one) => {
                let $state = &mut ();
                $call
            }
        }
    };
}

impl Protection for Scheme {
    type State = digest::State;

    fn write(
        &mut self,
        state: &mut Self::State,
        accounts: &impl Credentials,
        user: u32,
        outgoing: &Outgoing<'_>,
        out: &mut Vec<u8>,
    ) {
        delegate!(self, state, one => one.write(state, accounts, user, outgoing, out));
    }

    fn read(
        &mut self,
        state: &mut Self::State,
        accounts: &impl Credentials,
        user: u32,
        incoming: &Incoming<'_>,
    ) -> Reading {
        delegate!(self, state, one => one.read(state, accounts, user, incoming))
    }

    fn challenged(
        &mut self,
        state: &mut Self::State,
        accounts: &impl Credentials,
        user: u32,
        incoming: &Incoming<'_>,
        attempts: &mut Attempts,
    ) -> Verdict {
        delegate!(self, state, one => one.challenged(state, accounts, user, incoming, attempts))
    }

    fn reconnected(&mut self, state: &mut Self::State, user: u32) {
        delegate!(self, state, one => one.reconnected(state, user));
    }

    fn trouble(&self) -> Option<String> {
        match self {
            Scheme::None(one) => one.trouble(),
            Scheme::Digest(one) => one.trouble(),
            Scheme::Ntlm(one) => one.trouble(),
        }
    }

    fn signs_answers(&self) -> bool {
        match self {
            Scheme::None(one) => one.signs_answers(),
            Scheme::Digest(one) => one.signs_answers(),
            Scheme::Ntlm(one) => one.signs_answers(),
        }
    }

    fn drops_refused(&self) -> bool {
        match self {
            Scheme::None(one) => one.drops_refused(),
            Scheme::Digest(one) => one.drops_refused(),
            Scheme::Ntlm(one) => one.drops_refused(),
        }
    }
}
