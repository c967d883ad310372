//! `[pool]` and `[sites.NAME]`: where to, and from where.

use std::collections::BTreeMap;
use std::ops::Range;

use super::model::{Connections, Dialect, Pool, Site, Target, Tls, Transport};
use super::network::{HostPort, Network, SourceRange, is_loopback};
use super::reader::{At, Cx, Section};
use super::source::Wrong;
use super::{MAX_NAME, names};

/// More networks, ranges or sites than this are a generated file gone wrong.
const MAX_ENTRIES: usize = 256;
const TARGET: &str = "host[:port] or \"embedded\"";

pub(super) fn pool(cx: &mut Cx<'_>, mut section: Section<'_, '_>, dialect: Dialect) -> Option<Pool> {
    let target = target(cx, &mut section);
    if !section.has("target") {
        section.missing(cx, "target", TARGET);
    }
    let transport = transport(cx, &mut section, dialect);
    let connections = connections(cx, &mut section, dialect);
    let allow = allow(cx, &mut section);
    if let Some(target) = &target {
        check_allowed(cx, target, &allow);
    }
    let advertise = advertise(cx, &mut section);
    let source = source(cx, &mut section).unwrap_or_default();
    let tls = section.section(cx, "tls").map(|section| tls(cx, section)).unwrap_or_default();
    section.finish(cx);
    Some(Pool {
        target: target?.value,
        transport,
        connections: connections.unwrap_or(Connections::PerUser),
        allow: allow.iter().map(Network::to_string).collect(),
        advertise,
        source,
        tls,
    })
}

fn transport(cx: &mut Cx<'_>, section: &mut Section<'_, '_>, dialect: Dialect) -> Transport {
    let lync = dialect == Dialect::Lync;
    let asked = section.choice(cx, "transport", Transport::WORDS);
    if let Some(asked) = asked.as_ref().filter(|asked| lync && asked.value == Transport::Udp) {
        let wrong = Wrong::new("the dialect `lync` does not go over UDP").found(cx.found(&asked.at));
        cx.wrong(&asked.at, wrong.accepted("\"tls\", \"tcp\""));
    }
    asked.map_or(if lync { Transport::Tls } else { Transport::Udp }, |asked| asked.value)
}

/// Lync servers bind endpoint and security association to a connection ([MS-SIPAE], [MS-SIPREGE]).
fn connections(cx: &mut Cx<'_>, section: &mut Section<'_, '_>, dialect: Dialect) -> Option<Connections> {
    let asked = section.choice(cx, "connections", Connections::WORDS)?;
    if dialect == Dialect::Lync && asked.value == Connections::Shared {
        let wrong = Wrong::new("users of the dialect `lync` share no connections").found(cx.found(&asked.at));
        cx.wrong(&asked.at, wrong.accepted("\"per-user\""));
    }
    Some(asked.value)
}

/// `[sites.NAME]`: each may say where to and from where for itself.
pub(super) fn sites(
    cx: &mut Cx<'_>,
    root: &mut Section<'_, '_>,
    pool: Option<&Pool>,
    dialect: Dialect,
) -> BTreeMap<String, Site> {
    let mut sites = BTreeMap::new();
    let Some(section) = root.section(cx, "sites") else { return sites };
    let allow: Vec<Network> =
        pool.iter().flat_map(|pool| &pool.allow).filter_map(|text| Network::parse(text).ok()).collect();
    let mut with_share = 0;
    for (name, below) in section.named_sections() {
        check_site_name(cx, &name);
        match below {
            Ok(below) => {
                let site = site(cx, below, &allow, pool.is_some(), dialect);
                with_share += usize::from(site.share.is_some());
                sites.insert(name.value, site);
            }
            Err(at) => {
                let wrong = Wrong::new(format!("`sites.{}` has the wrong type", name.value));
                cx.wrong(&at, wrong.accepted(format!("a table, [sites.{}]", name.value)));
            }
        }
    }
    if sites.len() > MAX_ENTRIES {
        let wrong = Wrong::new("too many sites").found(sites.len().to_string());
        cx.wrong(&section.at, wrong.accepted(format!("at most {MAX_ENTRIES}")));
    }
    if with_share > 0 && with_share < sites.len() {
        let wrong = Wrong::new("some sites have a `share` and some have none");
        cx.wrong(&section.at, wrong.accepted("a share for each site, or none at all for equal shares"));
    }
    sites
}

fn check_site_name(cx: &mut Cx<'_>, name: &At<String>) {
    if !names::is_name(&name.value, MAX_NAME) || name.value == "all" {
        let wrong = Wrong::new(format!("`{}` is no name of a site", name.value)).accepted(format!(
            "[a-z0-9][a-z0-9_.-]*, at most {MAX_NAME} characters, and not `all`, which is the sum"
        ));
        cx.wrong(&name.at, wrong);
    }
}

fn site(
    cx: &mut Cx<'_>,
    mut section: Section<'_, '_>,
    allow: &[Network],
    pool_known: bool,
    dialect: Dialect,
) -> Site {
    let share = share(cx, &mut section);
    let target = target(cx, &mut section);
    // Without `[pool] allow` being readable, a target outside of it proves nothing.
    if let Some(target) = &target
        && pool_known
    {
        check_allowed(cx, target, allow);
    }
    if let Some(target) = &target
        && target.value == Target::Embedded
    {
        let wrong = Wrong::new("a site cannot have the embedded pool as its target").accepted("host[:port]");
        cx.wrong(&target.at, wrong);
    }
    let connections = connections(cx, &mut section, dialect);
    let advertise = advertise(cx, &mut section);
    let source = source(cx, &mut section);
    section.finish(cx);
    Site { share, target: target.map(|t| t.value), connections, advertise, source }
}

/// A weight: a number above 0 with at most three decimals.
fn share(cx: &mut Cx<'_>, section: &mut Section<'_, '_>) -> Option<u64> {
    let accepted = "a weight from 0.001 to 1000 with at most three decimals";
    section.thousandths(cx, "share", "share", 1..=1_000_000, accepted).map(|share| share.value)
}

fn target(cx: &mut Cx<'_>, section: &mut Section<'_, '_>) -> Option<At<Target>> {
    section.parsed(cx, "target", TARGET, |text| match text {
        "embedded" => Ok(Target::Embedded),
        text => HostPort::parse(text).map(|_| Target::Host(text.to_owned())),
    })
}

fn allow(cx: &mut Cx<'_>, section: &mut Section<'_, '_>) -> Vec<Network> {
    let texts = section.texts(cx, "allow", MAX_ENTRIES).unwrap_or_default();
    let accepted = "networks such as \"192.0.2.0/24\" or \"2001:db8::/32\"";
    texts.iter().filter_map(|text| each(cx, "pool.allow", text, accepted, Network::parse)).collect()
}

/// An address that lies outside of what may be reached is refused here
/// already; names are checked by the agents when they have resolved them.
fn check_allowed(cx: &mut Cx<'_>, target: &At<Target>, allow: &[Network]) {
    let Target::Host(host) = &target.value else { return };
    let Some(address) = HostPort::parse(host).ok().and_then(|host| host.address) else { return };
    if is_loopback(address) || allow.iter().any(|network| network.contains(address)) {
        return;
    }
    let wrong = Wrong::new(
        "the target is not allowed, load goes to loopback and to the networks in `pool.allow` only",
    )
    .found(cx.found(&target.at))
    .help(format!(
        "if this pool is yours to load, add to [pool]: allow = [\"{address}/{}\"]",
        if address.is_ipv4() { 32 } else { 128 }
    ));
    cx.wrong(&target.at, wrong);
}

fn advertise(cx: &mut Cx<'_>, section: &mut Section<'_, '_>) -> Option<String> {
    let read = |text: &str| HostPort::parse(text).map(|_| text.to_owned());
    section.parsed(cx, "advertise", "host[:port]", read).map(|text| text.value)
}

fn source(cx: &mut Cx<'_>, section: &mut Section<'_, '_>) -> Option<Vec<String>> {
    let name = section.name("source");
    let texts = section.texts(cx, "source", MAX_ENTRIES)?;
    let accepted = "addresses, ranges or networks such as \"127.0.0.1-127.0.0.8\"";
    let read = |text: &str| SourceRange::parse(text).map(|_| text.to_owned());
    Some(texts.iter().filter_map(|text| each(cx, &name, text, accepted, read)).collect())
}

fn each<T>(
    cx: &mut Cx<'_>,
    name: &str,
    text: &At<String>,
    accepted: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    match read(&text.value) {
        Ok(value) => Some(value),
        Err(why) => {
            let found = cx.found(&text.at);
            let wrong = Wrong::new(format!("`{name}` cannot be used, {why}")).found(found).accepted(accepted);
            cx.wrong(&text.at, wrong);
            None
        }
    }
}

fn tls(cx: &mut Cx<'_>, mut section: Section<'_, '_>) -> Tls {
    let path = |text: Option<At<String>>| text.map(|text| text.value);
    let ca = path(section.text(cx, "ca"));
    let cert = path(section.text(cx, "cert"));
    let key = path(section.text(cx, "key"));
    if cert.is_some() != key.is_some() {
        let (there, missing) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
        let at: Range<usize> = section.key_at(there);
        let wrong = Wrong::new(format!("`pool.tls.{there}` stands without `pool.tls.{missing}`"));
        cx.wrong(&at, wrong.accepted("both or neither: a client certificate needs its key"));
    }
    let server_name = section.parsed(cx, "server_name", "a host name", |text| match HostPort::parse(text) {
        Ok(HostPort { port: None, .. }) => Ok(text.to_owned()),
        Ok(_) => Err("it has a port".to_owned()),
        Err(why) => Err(why),
    });
    let legacy = section.boolean(cx, "legacy").is_some_and(|legacy| legacy.value);
    section.finish(cx);
    Tls { ca, cert, key, server_name: server_name.map(|name| name.value), legacy }
}
