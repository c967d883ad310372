//! What the ErrorIds of [MS-OCER] mean, who has to act, and what can be done.
//!
//! The table holds the ids that concern registration and presence; there are
//! many more, and those are shown as numbers with the range they belong to.
//! Reasons are in short what the specification says. Response codes stand where
//! a specification names one: servers may send an id with others, too.

use crate::host::Class;

/// One ErrorId.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The number at the beginning of the header.
    pub id: u32,
    /// True if it is seen in `ms-diagnostics-public`.
    pub public: bool,
    /// Response codes that it comes with, as far as that is specified.
    pub codes: &'static [u16],
    /// What it means.
    pub reason: &'static str,
    /// Who has to act.
    pub class: Class,
    /// What that person can do.
    pub advice: &'static str,
}

macro_rules! table { ($($id:literal $header:ident $class:ident [$($code:literal)*] $reason:literal => $advice:literal;)+) => {
    /// All of them, by id.
    pub const KNOWN: &[Known] = &[$(Known {
        id: $id,
        public: table!(@ $header),
        codes: &[$($code),*],
        reason: $reason,
        class: Class::$class,
        advice: $advice,
    }),+];
}; (@ d) => { false }; (@ p) => { true } }

// `d`: ms-diagnostics, `p`: ms-diagnostics-public.
table! {
    1000 d Configuration [] "the final handshake of the authentication failed" => "Correct user name, domain and password of this account, and see that it is neither locked nor expired in the directory.";
    1001 d Configuration [] "the From URI is not authorised for public IM connectivity" => "Allow public IM connectivity in the user's external access policy, or test with users of this organisation.";
    1002 d Configuration [] "the From URI is not authorised to reach federated partners" => "Allow federation in the user's external access policy, or test with users of this organisation.";
    1003 d Configuration [] "the user does not exist" => "Check the SIP address, and that the account is enabled for SIP (Get-CsUser).";
    1004 d Pool [] "the route set is no longer valid" => "A server of the pool was restarted or moved during the dialog: run the check again, and look at the servers' event log if it comes again.";
    1005 d Pool [] "cannot route to the destination domain" => "Check the domain of the SIP address, and that the pool serves it (Get-CsSipDomain) or has a route to it.";
    1006 d Pool [] "routing on the client's connection failed" => "The pool has lost the connection of an endpoint: look at its event log and at devices between that end idle connections.";
    1007 d Pool [] "cannot route for the moment" => "A server behind the one that answered is not reachable: look at the services of the pool (Get-CsWindowsService) and try again.";
    1008 d Pool [] "a DNS SRV record cannot be resolved" => "The server that is named as Source cannot find the next one: mend its DNS (SRV).";
    1010 d Pool [] "no trust in the certificate of the next hop" => "Two servers do not trust each other's certificates: renew the certificate of the next hop, or install its CA on the server named as Source.";
    1011 d Pool [] "the previous hop gave no diagnostics" => "Look at the log of the server before the one named as Source.";
    1013 d Configuration [] "the clocks differ too much for the authentication" => "Set the clock of this host, and of the server: NTLM bears 15 minutes of difference, Kerberos 5.";
    1014 d Pool [] "a DNS A record cannot be resolved" => "The server that is named as Source cannot find the next one: mend its DNS (A).";
    2003 d Configuration [] "a publication that is read-only cannot be overwritten" => "Some other application owns this category: use a test account of its own.";
    2004 d Configuration [] "the subscriber is not authorised to subscribe" => "The publisher blocks this subscriber, or a policy does: look at the publisher's contact list and privacy settings, or use another test account.";
    2005 d Configuration [] "the user in the From URI was not found" => "Check the SIP address, and that the account is enabled for SIP (Get-CsUser).";
    2010 d Configuration [400] "the category exceeds the size limit" => "What is published is larger than the pool takes; adsum's own documents are small, so look at a --trace for what became of them.";
    2011 p Configuration [] "the limit of delivery contexts for each subscriber is exceeded" => "The subscriber watches from too many places: sign other endpoints of the test account off.";
    2012 d Configuration [] "the limit of category subscriptions is exceeded" => "The publisher has more watchers than its presence policy allows: raise MaxCategorySubscription (Set-CsPresencePolicy), or watch fewer categories.";
    2013 p Configuration [] "the extension msrtc-event-categories is required" => "The pool wants enhanced presence: use --dialect lync.";
    2014 p Pool [481] "the subscription's dialog does not exist" => "The pool has forgotten the subscription: was it restarted, or did the user move to another pool?";
    2016 p Pool [] "a new subscription is required" => "The pool moved the subscription: run the check again; if it comes again, look at the servers' event log.";
    2057 d Configuration [421] "gruu-10 is missing while msrtc-event-categories is supported" => "Something between changes the Supported header, or this is a mistake of adsum: look at a --trace and report it.";
    2141 d Pool [409] "the version of the delegate is out of date" => "Somebody else changed the account meanwhile: run the check again, with test accounts that nobody else uses.";
    2165 d Configuration [488] "no subscription to contacts: they were migrated" => "The contacts lie in the unified contact store of Exchange; presence itself is not concerned.";
    4000 d Pool [] "the default of the user services" => "The reason does not say more: look at the event log of the server named as Source.";
    4001 d Configuration [400] "the XML cannot be parsed" => "Something between changed the document, or this is a mistake of adsum: look at a --trace and report it.";
    4003 p Configuration [403] "the From URI is not enabled for remote access" => "Allow remote access in the user's external access policy (Set-CsExternalAccessPolicy -EnableOutsideAccess), or check from inside.";
    4004 p Configuration [403] "the credentials may not act as this From URI" => "User name and SIP address belong to different accounts: correct the credential file.";
    4005 d Configuration [404] "the destination URI is either not enabled for SIP or does not exist" => "Check the SIP address, and that the account is enabled for SIP (Get-CsUser: Enabled is True) and homed on this pool.";
    4006 d Configuration [] "the user was not found in this pool" => "Give the pool that the user is homed on as the target (Get-CsUser: RegistrarPool).";
    4007 d Configuration [] "the resource is unknown in this deployment" => "Check the SIP address and its domain.";
    4008 d Configuration [] "the input is too large" => "Something between changed the message, or this is a mistake of adsum: look at a --trace and report it.";
    4010 d Configuration [400] "the endpoint identifier is missing" => "Something between removed epid and sip.instance, or the wrong dialect was used: try --dialect lync.";
    4011 d Configuration [] "the epid is not present" => "Something between removed epid, or the wrong dialect was used: try --dialect lync.";
    4012 d Configuration [] "the epid is too long" => "This is a mistake of adsum: report it with a --trace.";
    4013 d Configuration [] "the Content-Type does not match" => "Something between changed the document, or the wrong dialect was used: try --dialect lync.";
    4055 d Configuration [489] "the Event header of a REGISTER is not `registration`" => "Something between changed the Event header, or this is a mistake of adsum: look at a --trace and report it.";
    4141 p Configuration [] "the user was disabled" => "Somebody disabled the account for SIP while it was signed on: enable it again, or use another test account. (It comes with a NOTIFY of registration-notify.)";
    5001 d Pool [] "the request timed out" => "An application behind the pool did not answer in time: look at its services and their load.";
    17000 d Pool [] "the server is overloaded (client version filter)" => "Lower the rate, or look at the load of the pool.";
    17002 d Configuration [] "the client's version is not allowed" => "Let the client version policy of the pool pass the User-Agent of adsum (Get-CsClientVersionPolicy).";
    17003 d Configuration [] "the client's version is declined, with a URL for another one" => "Let the client version policy of the pool pass the User-Agent of adsum (Get-CsClientVersionPolicy).";
}

/// What an id means, if it is in the table.
#[must_use]
pub fn known(id: u32) -> Option<&'static Known> {
    KNOWN.binary_search_by_key(&id, |known| known.id).ok().map(|at| &KNOWN[at])
}

/// What an id that is not in the table is about ([MS-OCER] §2.2.1: ranges of ErrorIds).
#[must_use]
pub fn range(id: u32) -> Option<&'static str> {
    Some(match id {
        0..=999 => "common to all servers",
        1000..=1999 => "the SIP stack: routing, authentication, connections",
        2000..=2999 => "presence",
        3000..=3999 => "conferencing",
        4000..=4999 => "user services other than presence",
        5000..=5999 => "programming interfaces and applications",
        12_000..=14_999 => "voice routing",
        17_000..=17_999 => "the client version filter",
        24_000..=24_999 => "an endpoint of another user (ms-client-diagnostics)",
        60_000..=62_999 => "defined by an application",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_every_row_says_what_to_do() {
        assert!(KNOWN.is_sorted_by(|a, b| a.id < b.id));
        for row in KNOWN {
            assert!(row.advice.len() > 20 && row.advice.ends_with(['.', '?', ')']), "{}", row.id);
            assert!(!row.reason.is_empty() && !row.reason.ends_with('.'), "{}", row.id);
            assert!(range(row.id).is_some() && known(row.id).is_some_and(|found| found.id == row.id));
        }
        assert!(known(2999).is_none() && range(2999) == Some("presence") && range(99_999).is_none());
    }
}
