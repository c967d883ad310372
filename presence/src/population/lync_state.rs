//! What is kept for a user that speaks `lync`, beside [`super::state::User`]:
//! users of the other dialect do not carry it.

use std::collections::BTreeMap;

use adsum_sip::Time;
use adsum_sip::protection::Reading;

use super::Population;
use super::request::Order;
use crate::accounts::Accounts;
use crate::lync::LyncOptions;
use crate::lync::identity::Epid;
use crate::lync::messages::Messages;
use crate::lync::versions::Versions;
use crate::population::Transport;
use crate::simple::MessageError;
use crate::slab::{NONE, Slot};
use crate::wheel::TimerId;

/// What an endpoint is about; bits of [`Endpoint::flags`].
pub(super) mod own {
    /// It has published a note that stands.
    pub const PUBLISHED: u8 = 1;
    /// The registration holds its device and its state: the user appears on line.
    pub const PRESENT: u8 = 2;
    /// Its colleagues were not allowed to see it.
    pub const LACKS_MEMBERS: u8 = 4;
    /// It asked for that to be changed, once.
    pub const ASKED_MEMBERS: u8 = 8;
    /// A REGISTER makes a new security association, and everything else waits for it.
    pub const RENEWING: u8 = 16;
    /// Something that it was told was dropped because of its signature.
    pub const MISSIGNED: u8 = 32;
}

/// All that only this dialect keeps.
#[derive(Debug)]
pub(super) struct Lync {
    pub messages: Messages,
    /// One for each user.
    pub endpoints: Vec<Endpoint>,
    /// See [`LyncOptions::is_tidy`].
    pub is_tidy: bool,
    /// See [`LyncOptions::takes_back`].
    pub takes_back: bool,
    /// By user: requests that wait for an association. No more than a user has transactions: one
    /// publication, one for its own presence, one for each dialog in which it watches.
    pub parked: BTreeMap<u32, Vec<Parked>>,
}

/// A request that waits: its transaction is open, and nothing of it is on the wire.
#[derive(Debug)]
pub(super) struct Parked {
    pub slot: Slot,
    pub generation: u32,
    pub order: Order,
}

/// A user's one endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub epid: Epid,
    pub flags: u8,
    /// The dialog in which it watches.
    pub carrier: Slot,
    pub versions: Versions,
    /// Version of the container that colleagues are shown.
    pub colleagues: u32,
    /// Nanoseconds of silence after which its connection is kept alive; 0 for never.
    pub keep_alive: u64,
    pub keep_timer: TimerId,
    /// When something of it was last written to its connection.
    pub written: Time,
    /// When its security association was made.
    pub associated: Time,
    /// What the registrar wants to be our Contact; without brackets.
    pub gruu: Box<[u8]>,
    /// `ms-user-logon-data`, if the registrar said it.
    pub logon: Option<Box<[u8]>>,
}

impl Endpoint {
    pub fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub fn set(&mut self, flag: u8, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }
}

impl Lync {
    pub fn new(
        transport: Transport,
        options: &LyncOptions,
        accounts: &Accounts,
        run: u32,
    ) -> Result<Box<Lync>, MessageError> {
        let mut uri = Vec::new();
        let endpoint = |user| {
            uri.clear();
            accounts.write_uri(user, &mut uri);
            Endpoint {
                epid: Epid::of(&uri, run),
                flags: 0,
                carrier: NONE,
                versions: Versions::default(),
                colleagues: 0,
                keep_alive: 0,
                keep_timer: TimerId::NONE,
                written: Time(0),
                associated: Time(0),
                gruu: Box::default(),
                logon: None,
            }
        };
        let users = accounts.pairs().len() as u32 * 2;
        Ok(Box::new(Lync {
            messages: Messages::new(transport, options)?,
            endpoints: (0..users).map(endpoint).collect(),
            is_tidy: options.is_tidy,
            takes_back: options.takes_back,
            parked: BTreeMap::new(),
        }))
    }
}

impl Population {
    /// True for the `lync` dialect.
    #[inline]
    pub(super) fn is_lync(&self) -> bool {
        self.lync.is_some()
    }

    pub(super) fn endpoint(&self, user: u32) -> Option<&Endpoint> {
        self.lync.as_ref()?.endpoints.get(user as usize)
    }

    pub(super) fn endpoint_mut(&mut self, user: u32) -> Option<&mut Endpoint> {
        self.lync.as_mut()?.endpoints.get_mut(user as usize)
    }

    /// The dialog in which a user of this dialect watches; [`NONE`] for everybody else.
    pub(super) fn carrier_of(&self, user: u32) -> Slot {
        self.endpoint(user).map_or(NONE, |endpoint| endpoint.carrier)
    }

    /// What `ms-user-logon-data` said when a user registered (`lync`): `RemoteUser` is one who
    /// came through an Edge server ([MS-SIPRE] §4.10).
    #[must_use]
    pub fn logon_data(&self, user: u32) -> Option<&[u8]> {
        self.endpoint(user)?.logon.as_deref()
    }

    /// True for a message that is to be treated as if it had never come.
    pub(super) fn is_dropped(&self, reading: Reading) -> bool {
        use adsum_sip::protection::Protection as _;
        reading == Reading::Refused && self.protection.drops_refused()
    }
}
