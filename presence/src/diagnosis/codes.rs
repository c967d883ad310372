//! Every code that a failure can have, for `adsum explain`: those of ours, and
//! the status codes of SIP.

use crate::host::{Activity, Class};

/// A code of `failures.csv`.
#[derive(Debug, Clone, Copy)]
pub struct FailureCode {
    /// `timeout:notify`, …
    pub code: &'static str,
    /// Who has to act, most often; `failures.csv` says it of each.
    pub class: Class,
    /// What happened.
    pub meaning: &'static str,
    /// What can be done.
    pub advice: &'static str,
}

macro_rules! failures { ($($code:literal $class:ident $meaning:literal => $advice:literal;)+) => {
    /// Those that are not `sip:` with a status code.
    pub const FAILURES: &[FailureCode] = &[$(FailureCode {
        code: $code, class: Class::$class, meaning: $meaning, advice: $advice,
    }),+];
} }

failures! {
    "auth:bad-signature" Configuration "The answer to a request was signed wrongly or not at all (`rspauth` of NTLM), so it counts as never received (`auth_mismatch`); no other came in time." => "Check which server answers there, whether the servers of the pool agree about its users, and devices between that change messages.";
    "auth:rejected" Configuration "The server refused user name or password. The account is set aside: no account is locked out by retries." => "Correct the credentials of this account: the credential file of `check`, the row of the users' file of a run.";
    "auth:unsupported" Configuration "The server asks for an authentication that cannot be answered: a scheme or algorithm that this version does not speak, or any at all while none is to be used." => "The diagnosis names what the server offers. Let it offer Digest (MD5, SHA-256, SHA-512-256), in the dialect lync NTLM, or use the scheme that it wants (--auth, auth.scheme).";
    "generator:interrupted" Generator "A signal ended a check before it had an answer; what was published was withdrawn, unless a warning says otherwise." => "Nothing is known about the pool: run the check again. Give it the time that it needs: three minutes at worst, and the --timeout beyond 25 s.";
    "generator:not_ready" Generator "Readiness was not reached and nothing failed." => "This is a mistake of adsum: report it with the scenario.";
    "generator:out_of_files" Generator "This process had no file descriptor left for a connection." => "Raise the hard limit (ulimit -Hn 1048576 as root, LimitNOFILE=1048576 in a unit), or use more agents.";
    "generator:out_of_ports" Generator "This host had no local port left for a connection." => "Give more addresses with pool.source, or sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\".";
    "generator:plan" Generator "The plan cannot be carried out on this host." => "The reason says what is in the way: usually certificates, keys or names of [pool] tls.";
    "generator:start" Generator "The check or the agent could not be started on this host." => "The reason says what is in the way: certificates and keys that do not fit, a local address that is not there, or no resources.";
    "generator:stopped" Generator "The thread of a check ended without an answer." => "This is a mistake of adsum: report it with what it printed before.";
    "generator:too_many_kinds" Generator "More kinds of failures than are kept apart in one second; further ones are added up here." => "Look at the kinds before this one: they tell what is wrong.";
    "protocol:contact" Pool "The 2xx to a REGISTER did not list our Contact, so nobody can be reached there (RFC 3261 section 10.3)." => "Look at the registrar: does it take the Contact, or does a device between rewrite it?";
    "protocol:etag" Pool "The 2xx to a PUBLISH had no SIP-ETag (RFC 3903 section 6)." => "Look at the presence server: it has to give an entity tag, or documents cannot be refreshed.";
    "protocol:framing" Pool "A stream held something that is no SIP message, so where the next one begins is unknown; the connection was closed." => "Look at what answers there, and at devices between that change messages.";
    "protocol:unexpected" Pool "The 2xx to a REGISTER lacks what every Lync server since Office Communications Server 2007 says: `Supported: msrtc-event-categories`, or a GRUU." => "Is it a Lync server that answers? For others there is --dialect simple (pool.dialect = \"simple\").";
    "protocol:version-conflict" Configuration "The server held other versions of what a user published (409), three times in a row ([MS-PRES]); or it named none of ours." => "Somebody else publishes for this account: another run, another endpoint. Give each run accounts of its own.";
    "registration:lost" Pool "The server did not know a registration when it was refreshed (`presence-state: register-action=\"added\"`), so subscriptions and presence were lost with it; or a registration ended, whatever ended it, with other requests on their way, which ended then, too." => "Was the registrar restarted, or did the user move to another pool meanwhile? Look at its log.";
    "subscription:elsewhere" Configuration "The server does not serve a publisher and says so (`resubscribe`); the diagnosis names the pool that does, if it was said." => "Give publishers and subscribers of one pool, or that pool as the target.";
    "subscription:terminated" Pool "The server ended a subscription before it was of use (RFC 6665 section 4.1.3); the reason says why." => "rejected: look at presence rules; noresource: check the publisher's address; otherwise look at the pool's log.";
    "timeout:first_notify" Pool "A SUBSCRIBE was accepted and no NOTIFY followed within 32 s (RFC 6665 timer N)." => "Look at the presence server, and whether it can reach our Contact: over UDP and TCP it may need --advertise.";
    "timeout:notify" Pool "The publication was accepted and the subscriber was not told of it within the deadline: what the cmdlet calls `Presence notification is not received within 25 secs.`" => "Look at load and log of the pool's presence service, and whether the publisher's rules let this subscriber see it.";
    "timeout:transaction" Network "No final answer within 32 s (RFC 3261 timer F). Before a user is registered it is the network's, later the pool's." => "Check address, port, transport and the firewalls between; if others get answers, look at load and log of the pool.";
    "transport:blocked" Configuration "The server named an address that nobody allowed; nothing was sent there." => "Add the network that the diagnosis names to allow in [pool]; for `check`, give that server as the target.";
    "transport:closed" Network "The other side closed the connection before it had answered." => "Look at the server's log and at its limits for connections, and at devices between that end them.";
    "transport:connect" Network "No connection could be made, or the host refused the datagrams." => "Check address, port and transport, and that the pool listens at each of its addresses.";
    "transport:dns" Network "The target's name could not be resolved (RFC 3263)." => "Check the name, and the name servers of this host; ADSUM_DNS asks another one.";
    "transport:tls" Configuration "The TLS handshake failed; the diagnosis tells whose certificate it is, and why." => "Most often the pool's CA is not trusted here (--ca, tls.ca), or the target is not a name of the certificate (--server-name, tls.server_name).";
}

/// Reason phrases of final and provisional responses (RFC 3261 §21 and those that add to it).
pub const STATUS: &[(u16, &str)] = &[
    (100, "Trying"),
    (180, "Ringing"),
    (181, "Call Is Being Forwarded"),
    (182, "Queued"),
    (183, "Session Progress"),
    (200, "OK"),
    (202, "Accepted"),
    (204, "No Notification"),
    (300, "Multiple Choices"),
    (301, "Moved Permanently"),
    (302, "Moved Temporarily"),
    (305, "Use Proxy"),
    (380, "Alternative Service"),
    (400, "Bad Request"),
    (401, "Unauthorized"),
    (402, "Payment Required"),
    (403, "Forbidden"),
    (404, "Not Found"),
    (405, "Method Not Allowed"),
    (406, "Not Acceptable"),
    (407, "Proxy Authentication Required"),
    (408, "Request Timeout"),
    (409, "Conflict"),
    (410, "Gone"),
    (412, "Conditional Request Failed"),
    (413, "Request Entity Too Large"),
    (414, "Request-URI Too Long"),
    (415, "Unsupported Media Type"),
    (416, "Unsupported URI Scheme"),
    (420, "Bad Extension"),
    (421, "Extension Required"),
    (423, "Interval Too Brief"),
    (480, "Temporarily Unavailable"),
    (481, "Call/Transaction Does Not Exist"),
    (482, "Loop Detected"),
    (483, "Too Many Hops"),
    (484, "Address Incomplete"),
    (485, "Ambiguous"),
    (486, "Busy Here"),
    (487, "Request Terminated"),
    (488, "Not Acceptable Here"),
    (489, "Bad Event"),
    (491, "Request Pending"),
    (493, "Undecipherable"),
    (494, "Security Agreement Required"),
    (500, "Server Internal Error"),
    (501, "Not Implemented"),
    (502, "Bad Gateway"),
    (503, "Service Unavailable"),
    (504, "Server Time-out"),
    (505, "Version Not Supported"),
    (513, "Message Too Large"),
    (580, "Precondition Failure"),
    (600, "Busy Everywhere"),
    (603, "Decline"),
    (604, "Does Not Exist Anywhere"),
    (606, "Not Acceptable"),
];

/// The reason phrase of a code; of an unknown one what its hundred means (RFC 3261 §8.1.3.2).
#[must_use]
pub fn phrase(code: u16) -> &'static str {
    match STATUS.binary_search_by_key(&code, |row| row.0) {
        Ok(at) => STATUS[at].1,
        Err(_) => match code / 100 {
            1 => "a provisional response",
            2 => "a success",
            3 => "a redirection",
            4 => "an error in the request, or a refusal",
            5 => "an error of the server",
            _ => "a failure everywhere",
        },
    }
}

/// What can be done about a response, for `REGISTER` and for everything else.
#[must_use]
pub fn advice_for(code: u16) -> [&'static str; 2] {
    [super::advice(code, Activity::Register), super::advice(code, Activity::Subscribe)]
}

/// What is known about a code of ours.
#[must_use]
pub fn failure(code: &str) -> Option<&'static FailureCode> {
    FAILURES.iter().find(|row| row.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_order_and_complete_sentences() {
        assert!(STATUS.is_sorted_by(|a, b| a.0 < b.0));
        assert!(FAILURES.is_sorted_by(|a, b| a.code < b.code));
        for row in FAILURES {
            assert!(row.meaning.ends_with(['.', '`']) && row.advice.ends_with(['.', '?']), "{}", row.code);
        }
        assert_eq!((phrase(503), phrase(599)), ("Service Unavailable", "an error of the server"));
        assert!(failure("timeout:notify").is_some() && failure("timeout:nothing").is_none());
    }
}
