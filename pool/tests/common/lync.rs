//! Clients of the `lync` dialect and a pool without sockets, in virtual time.

use std::net::SocketAddr;

use adsum_pool::config::{Dialect, LyncConfig};
use adsum_pool::core::{Core, Out, Peer};
use adsum_pool::{PoolConfig, Stats};
use adsum_sip::Time;

use super::{Msg, Request, SECOND, aor};

/// 2026-01-05T10:00:00Z, when the tests begin.
pub const NOON: u64 = 1_767_607_200_000;

/// A pool that asks nobody for credentials.
pub fn open() -> PoolConfig {
    PoolConfig { auth: false, dialect: Dialect::Lync, ..PoolConfig::default() }
}

/// The same with knobs.
pub fn with(change: impl FnOnce(&mut LyncConfig)) -> PoolConfig {
    let mut config = open();
    change(&mut config.lync);
    config
}

/// An endpoint of a user, on a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    pub user: u32,
    pub epid: String,
    pub peer: Peer,
    pub cseq: u32,
    /// The To tag of its subscription to own presence.
    pub own_tag: String,
    /// The To tag of its batch subscription.
    pub batch_tag: String,
}

impl Client {
    pub fn new(user: u32, connection: u64) -> Client {
        let port = 40_000 + connection as u16;
        Client {
            user,
            epid: format!("{:010x}", 0x005f_0a1b_2c00 + connection),
            peer: Peer::Stream(connection, SocketAddr::from(([127, 0, 0, 1], port)), false),
            cseq: 0,
            own_tag: String::new(),
            batch_tag: String::new(),
        }
    }

    pub fn port(&self) -> u16 {
        match self.peer {
            Peer::Stream(_, address, _) | Peer::Udp(address) => address.port(),
        }
    }

    /// As the client that everybody knows writes it: `tcp`, and no branch.
    fn via(&self) -> String {
        format!("SIP/2.0/tcp 127.0.0.1:{}", self.port())
    }

    fn from(&self, tag: &str) -> String {
        format!("<{}>;tag={tag};epid={}", aor(self.user), self.epid)
    }

    pub fn request(&mut self, method: &str) -> Request {
        self.cseq += 1;
        Request::new(method, self.user)
            .via(&self.via())
            .from(&self.from(&format!("t{}", self.epid)))
            .call(&format!("{method}-{}", self.epid), self.cseq)
    }

    pub fn register_bare(&mut self) -> Request {
        let instance = uuid(&self.epid);
        self.request("REGISTER")
            .line(&format!(
                "Contact: <sip:10.0.0.7:{};transport=tcp;ms-opaque=d3470f2e1d>;methods=\"INVITE, NOTIFY, BENOTIFY\";\
                 proxy=replace;+sip.instance=\"<urn:uuid:{instance}>\"",
                self.port()
            ))
            .line("User-Agent: UCCAPI/15.0.0.0 test")
            .line("Allow-Events: presence")
            .line("ms-keep-alive: UAC;hop-hop=yes")
    }

    /// With everything, as point 1 of the expectations has it.
    pub fn register(&mut self) -> Request {
        self.register_bare()
            .line("Supported: gruu-10, adhoclist, msrtc-event-categories, com.microsoft.msrtc.presence")
            .line("Event: registration")
    }

    /// A SUBSCRIBE about oneself, without the tags that choose how it is told.
    pub fn subscribe_plain(&mut self, event: &str) -> Request {
        let gruu = format!("{};opaque=user:epid:{};gruu", aor(self.user), opaque(&self.epid));
        self.request("SUBSCRIBE")
            .call(&format!("{event}-{}", self.epid), self.cseq)
            .line(&format!("Contact: <{gruu}>"))
            .line(&format!("Event: {event}"))
    }

    pub fn subscribe(&mut self, event: &str) -> Request {
        self.subscribe_plain(event)
            .line("Supported: com.microsoft.autoextend")
            .line("Supported: ms-benotify")
            .line("Proxy-Require: ms-benotify")
            .line("Supported: ms-piggyback-first-notify")
    }

    /// A batch that begins or ends watching these.
    pub fn batch(&mut self, action: &str, uris: &[String], categories: &[&str]) -> Request {
        self.subscribe("presence")
            .line("Require: adhoclist, categoryList")
            .line("Supported: eventlist")
            .line("Content-Type: application/msrtc-adrl-categorylist+xml")
            .body(&batch(self.user, action, uris, categories))
    }

    pub fn service(&mut self, kind: &str, body: &str) -> Request {
        let cseq = self.cseq + 1;
        self.request("SERVICE")
            .call(&format!("service-{}-{cseq}", self.epid), 1)
            .line(&format!("Content-Type: application/{kind}"))
            .body(body)
    }

    pub fn publish(&mut self, publications: &[String]) -> Request {
        let body = format!(
            "<publish xmlns=\"http://schemas.microsoft.com/2006/09/sip/rich-presence\"><publications uri=\"{}\">{}\
             </publications></publish>",
            aor(self.user),
            publications.concat()
        );
        self.service("msrtc-category-publish+xml", &body)
    }
}

pub fn batch(user: u32, action: &str, uris: &[String], categories: &[&str]) -> String {
    let resources: String = uris.iter().map(|uri| format!("<resource uri=\"{uri}\"/>")).collect();
    let categories: String = categories.iter().map(|name| format!("<category name=\"{name}\"/>")).collect();
    format!(
        "<batchSub xmlns=\"http://schemas.microsoft.com/2006/01/sip/batch-subscribe\" uri=\"{}\" name=\"\">\
         <action name=\"{action}\" id=\"63792024\"><adhocList>{resources}</adhocList>\
         <categoryList xmlns=\"http://schemas.microsoft.com/2006/09/sip/categorylist\">{categories}</categoryList>\
         </action></batchSub>",
        aor(user)
    )
}

pub fn publication(
    category: &str,
    instance: u32,
    container: u16,
    version: u32,
    life: &str,
    content: &str,
) -> String {
    format!(
        "<publication categoryName=\"{category}\" instance=\"{instance}\" container=\"{container}\" \
         version=\"{version}\" {life}>{content}</publication>"
    )
}

pub fn state(kind: &str, instance: u32, container: u16, version: u32, availability: u16) -> String {
    let life = if kind == "userState" { "expireType=\"static\"" } else { "expireType=\"endpoint\"" };
    publication(
        "state",
        instance,
        container,
        version,
        life,
        &format!(
            "<state xmlns=\"http://schemas.microsoft.com/2006/09/sip/state\" manual=\"false\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"{kind}\">\
             <availability>{availability}</availability><endpointLocation/></state>"
        ),
    )
}

/// A machine on line, in both containers that aggregation reads.
pub fn machine(version: u32, availability: u16) -> [String; 2] {
    [2, 3].map(|container| state("machineState", 904_962_482, container, version, availability))
}

pub fn user_state(version: u32, availability: u16) -> [String; 2] {
    [2, 3].map(|container| state("userState", 536_870_912, container, version, availability))
}

pub fn note(container: u16, version: u32, text: &str) -> String {
    let content = format!(
        "<note xmlns=\"http://schemas.microsoft.com/2006/09/sip/note\"><body type=\"personal\" uri=\"\">{text}</body></note>"
    );
    publication("note", 0, container, version, "expireType=\"static\"", &content)
}

/// The instance of an epid, by the guide's algorithm: SHA-1 over the namespace
/// and the epid, read as a GUID.
fn guid(epid: &str) -> [u8; 16] {
    use sha1::Digest as _;
    let namespace = 0x03fb_acfc_738a_ef46_91b1_e5eb_eeab_a4fe_u128.to_be_bytes();
    let digest = sha1::Sha1::new().chain_update(namespace).chain_update(epid).finalize();
    let mut guid: [u8; 16] = digest[..16].try_into().unwrap();
    guid[7] = guid[7] & 0x0f | 0x50;
    guid[8] = guid[8] & 0x3f | 0x80;
    guid
}

/// As `+sip.instance` has it.
pub fn uuid(epid: &str) -> String {
    let g = guid(epid);
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let back = |bytes: &[u8]| hex(&bytes.iter().rev().copied().collect::<Vec<_>>());
    format!("{}-{}-{}-{}-{}", back(&g[..4]), back(&g[4..6]), back(&g[6..8]), hex(&g[8..10]), hex(&g[10..]))
}

/// As the opaque of a GRUU has it.
pub fn opaque(epid: &str) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let octets = [&guid(epid)[..], &[0, 0]].concat();
    let bits = |at: usize| {
        let word = u32::from(octets[at / 8]) << 8 | u32::from(*octets.get(at / 8 + 1).unwrap_or(&0));
        word >> (10 - at % 8) & 63
    };
    (0..24).map(|n| digits[bits(n * 6) as usize] as char).collect()
}

/// A pool and its clock.
pub struct World {
    pub core: Core,
    pub now: Time,
    /// Processor time that the pool itself took, in seconds.
    pub spent: f64,
    number: u64,
}

/// Processor time of this thread, in seconds.
fn cpu() -> f64 {
    let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    t.tv_sec() as f64 + t.tv_nsec() as f64 * 1e-9
}

impl World {
    pub fn new(config: PoolConfig) -> World {
        let mut core = Core::new(config, SocketAddr::from(([127, 0, 0, 1], 5060)));
        let now = Time(86_400 * SECOND);
        core.set_clock(now, NOON);
        World { core, now, spent: 0.0, number: 0 }
    }

    /// Everything that is sent because of some text, in the order of its instants.
    pub fn say(&mut self, peer: Peer, text: &str) -> Vec<Msg> {
        let mut outs = Vec::new();
        let begin = cpu();
        self.core.handle(self.now, peer, text.as_bytes(), &mut outs);
        self.spent += cpu() - begin;
        self.sent(outs)
    }

    fn sent(&mut self, outs: Vec<Out>) -> Vec<Msg> {
        let mut sent: Vec<Msg> =
            outs.iter().map(|out| Msg::new(out.at.max(self.now), out.peer, &out.bytes)).collect();
        sent.sort_by_key(|m| m.at);
        sent
    }

    pub fn tell(&mut self, client: &Client, request: &Request) -> Vec<Msg> {
        self.number += 1;
        self.say(client.peer, &request.text(self.number))
    }

    /// The answer to a request.
    #[track_caller]
    pub fn ask(&mut self, client: &Client, request: &Request) -> Msg {
        let sent = self.tell(client, request);
        sent.into_iter().find(|m| m.text.starts_with("SIP/2.0")).expect("an answer")
    }

    /// The answer, which has to be a 200, and what else is sent.
    #[track_caller]
    pub fn ok(&mut self, client: &Client, request: &Request) -> (Msg, Vec<Msg>) {
        let sent = self.tell(client, request);
        let (mut answers, others): (Vec<Msg>, Vec<Msg>) =
            sent.into_iter().partition(|m| m.text.starts_with("SIP/2.0"));
        assert_eq!(answers.len(), 1);
        let answer = answers.remove(0);
        assert_eq!(answer.code(), 200, "{}", answer.text);
        (answer, others)
    }

    /// Lets time pass; what is sent meanwhile.
    pub fn pass(&mut self, nanoseconds: u64) -> Vec<Msg> {
        let until = self.now + nanoseconds;
        let mut sent = Vec::new();
        while self.core.next_timer() <= until {
            self.now = self.now.max(self.core.next_timer());
            let mut outs = Vec::new();
            self.core.expire(self.now, &mut outs);
            sent.append(&mut self.sent(outs));
        }
        self.now = until;
        sent
    }

    pub fn disconnect(&mut self, client: &Client) -> Vec<Msg> {
        let mut outs = Vec::new();
        self.core.disconnected(self.now, client.peer, &mut outs);
        self.sent(outs)
    }

    /// A registered endpoint.
    #[track_caller]
    pub fn client(&mut self, user: u32, connection: u64) -> Client {
        let mut client = Client::new(user, connection);
        let request = client.register();
        self.ok(&client, &request);
        client
    }

    /// The same, with a subscription to its own presence.
    #[track_caller]
    pub fn own(&mut self, user: u32, connection: u64) -> Client {
        let mut client = self.client(user, connection);
        let request = client.subscribe("vnd-microsoft-roaming-self");
        client.own_tag = self.ok(&client, &request).0.to_tag();
        client
    }

    /// A registered endpoint that watches these users' state and note.
    #[track_caller]
    pub fn watcher(&mut self, user: u32, connection: u64, watched: &[u32]) -> Client {
        let mut client = self.client(user, connection);
        let uris: Vec<String> = watched.iter().map(|user| aor(*user)).collect();
        let request = client.batch("subscribe", &uris, &["state", "note"]);
        client.batch_tag = self.ok(&client, &request).0.to_tag();
        client
    }

    pub fn stats(&self) -> Stats {
        self.core.stats()
    }
}

impl Msg {
    pub fn is_benotify(&self) -> bool {
        self.text.starts_with("BENOTIFY ")
    }

    /// Numbers in `<availability>`, in order.
    pub fn availabilities(&self) -> Vec<u16> {
        self.between("<availability>", "</availability>").iter().map(|n| n.parse().unwrap()).collect()
    }

    /// What stands between each of two texts in the body.
    pub fn between(&self, begin: &str, end: &str) -> Vec<String> {
        let rest = self.body().split(begin).skip(1);
        rest.filter_map(|part| part.split_once(end)).map(|(inner, _)| inner.to_owned()).collect()
    }
}
