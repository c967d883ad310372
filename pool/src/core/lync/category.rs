//! Categories and their instances: what a user's presence is made of
//! ([MS-PRES] §1.3.1.5), and what the pool makes of it.

use super::super::ids::write_number;
use super::clock::write_date;

/// A category, as its number in [`NAMES`].
pub(super) type Category = u8;
/// A set of categories, one bit each.
pub(super) type Categories = u32;

/// Those that are registered with the pool; others are refused, as a server
/// does with what nobody registered.
const NAMES: [&str; 15] = [
    "state",
    "note",
    "contactCard",
    "calendarData",
    "services",
    "device",
    "legacyInterop",
    "noteHistory",
    "userProperties",
    "userInformation",
    "otherOptions",
    "routing",
    "workingHours",
    "alerts",
    "rccOptions",
];
pub(super) const STATE: Category = 0;
pub(super) const NOTE: Category = 1;
pub(super) const CONTACT_CARD: Category = 2;
/// All of them.
pub(super) const ALL: Categories = (1 << NAMES.len()) - 1;

/// The category of this name.
pub(super) fn category(name: &str) -> Option<Category> {
    NAMES.iter().position(|known| *known == name).map(|at| at as Category)
}

/// Its name.
pub(super) fn name(category: Category) -> &'static str {
    NAMES.get(usize::from(category)).copied().unwrap_or("state")
}

/// The categories of a set, in the order of their numbers.
pub(super) fn each(set: Categories) -> impl Iterator<Item = Category> {
    (0..NAMES.len() as Category).filter(move |c| set & 1 << c != 0)
}

/// How long an instance lives (`expireType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// For ever.
    Static,
    /// While the user has an endpoint.
    User,
    /// While the endpoint in this slot is registered.
    Endpoint(u32),
    /// Until [`Instance::ends`].
    Time,
}

impl Life {
    fn name(self) -> &'static str {
        match self {
            Life::Static => "static",
            Life::User => "user",
            Life::Endpoint(_) => "endpoint",
            Life::Time => "time",
        }
    }
}

/// What a `state` instance says to aggregation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Input {
    /// Nothing: another category, or another kind of state.
    #[default]
    None,
    /// `machineState`.
    Machine(u16),
    /// `userState`.
    User(u16),
    /// `phoneState` or `calendarState`.
    Other(u16),
}

/// What somebody published.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) category: Category,
    pub(super) container: u16,
    /// The number that its publisher gave it.
    pub(super) number: u32,
    /// 1 at first.
    pub(super) version: u32,
    pub(super) life: Life,
    pub(super) input: Input,
    /// Milliseconds of UTC since 1970.
    pub(super) published: u64,
    /// With [`Life::Time`], on the pool's clock.
    pub(super) ends: adsum_sip::Time,
    /// The element, as it may stand anywhere.
    pub(super) text: Box<[u8]>,
}

/// What the pool itself says of a user's availability, to containers 100, 200
/// and 400 from what is in container 2, and to 300 from container 3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Aggregate {
    /// From container 2, from container 3; 0 while no machine is on line.
    pub(super) availability: [u16; 2],
    pub(super) version: u32,
    pub(super) published: u64,
}

/// Where the aggregate of container 2 goes; that of 3 goes to 3 and 300.
pub(super) const OUTPUTS: [(u16, usize); 6] = [(2, 0), (3, 1), (100, 0), (200, 0), (300, 1), (400, 0)];
/// Whoever is on line nowhere, and whoever is blocked, sees this.
pub(super) const OFFLINE: u16 = 18_500;

/// The availability that inputs come to; 0 if no machine is on line.
/// Microsoft's algorithm is a script that nobody published: this is the
/// simplification of the protocol guide, §3.11.5.
pub(super) fn aggregate(inputs: impl Iterator<Item = Input>) -> u16 {
    let (mut machine, mut user, mut other) = (None::<u16>, None::<u16>, 0);
    for input in inputs {
        match input {
            Input::Machine(a) => machine = Some(machine.map_or(a, |m| m.min(a))),
            Input::User(a) => user = Some(user.map_or(a, |u| u.max(a))),
            Input::Other(a) => other = other.max(a),
            Input::None => {}
        }
    }
    let Some(machine) = machine else { return 0 };
    if machine >= 18_000 {
        return OFFLINE;
    }
    let Some(user) = user else { return machine.max(other) };
    if user >= 12_000 {
        return user;
    }
    let base = user.max(if other < 12_000 { other } else { 0 });
    match (machine, base) {
        (12_000.., ..6_000) => 15_500,
        (4_500..6_000, ..6_000) => 5_000,
        (4_500..6_000 | 12_000.., 6_000..9_000) => 7_500,
        _ => base,
    }
}

/// The same for workgroups, whom do-not-disturb does not shut out.
pub(super) fn for_workgroup(availability: u16) -> u16 {
    if (9_000..12_000).contains(&availability) { 6_900 } else { availability }
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn attribute(name: &str, number: u64, out: &mut Vec<u8>) {
    put(out, &[b" ", name.as_bytes(), b"=\""]);
    write_number(number, out);
    out.push(b'"');
}

/// Begins a `category` with what everybody sees of it.
fn begin(category: Category, number: u32, published: u64, out: &mut Vec<u8>) {
    put(out, &[b"<category name=\"", name(category).as_bytes(), b"\""]);
    attribute("instance", u64::from(number), out);
    out.extend_from_slice(b" publishTime=\"");
    write_date(published, out);
    out.push(b'"');
}

/// What only its owner sees.
fn own(container: u16, version: u32, life: &str, out: &mut Vec<u8>) {
    attribute("container", u64::from(container), out);
    attribute("version", u64::from(version), out);
    put(out, &[b" expireType=\"", life.as_bytes(), b"\""]);
}

fn end(text: &[u8], out: &mut Vec<u8>) {
    put(out, &[b">", text, b"</category>"]);
}

impl Instance {
    /// For its owner.
    pub(super) fn write_own(&self, out: &mut Vec<u8>) {
        begin(self.category, self.number, self.published, out);
        own(self.container, self.version, self.life.name(), out);
        end(&self.text, out);
    }

    /// For a watcher, who learns neither container nor version.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        begin(self.category, self.number, self.published, out);
        end(&self.text, out);
    }
}

/// `<category name="note"/>`: nothing is left of it.
pub(super) fn write_empty(category: Category, container: Option<u16>, out: &mut Vec<u8>) {
    put(out, &[b"<category name=\"", name(category).as_bytes(), b"\""]);
    if let Some(container) = container {
        attribute("container", u64::from(container), out);
    }
    out.extend_from_slice(b"/>");
}

fn state(availability: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"<state xsi:type=\"aggregateState\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
          xmlns=\"http://schemas.microsoft.com/2006/09/sip/state\"><availability>",
    );
    write_number(u64::from(availability), out);
    out.extend_from_slice(b"</availability></state>");
}

impl Aggregate {
    /// For the owner: one instance for each container that it goes to.
    pub(super) fn write_own(&self, out: &mut Vec<u8>) {
        for (container, source) in OUTPUTS {
            let (instance, availability, life) = self.instance(source);
            begin(STATE, instance, self.published, out);
            own(container, self.version.max(1), life, out);
            out.push(b'>');
            state(availability, out);
            out.extend_from_slice(b"</category>");
        }
    }

    /// For a watcher; `source` is the index in `availability`, `None` for whoever may see nothing.
    pub(super) fn write(&self, source: Option<usize>, out: &mut Vec<u8>) {
        let (instance, availability, _) = source.map_or((0, OFFLINE, ""), |source| self.instance(source));
        begin(STATE, instance, self.published, out);
        out.push(b'>');
        state(availability, out);
        out.extend_from_slice(b"</category>");
    }

    /// Instance 1 lives as long as the user is on line; 0 is the static form.
    fn instance(&self, source: usize) -> (u32, u16, &'static str) {
        match self.availability[source] {
            0 => (0, OFFLINE, "static"),
            availability => (1, availability, "user"),
        }
    }
}

/// The contact card that everybody has without publishing one, and that
/// nobody may overwrite: instance 0 of container 0.
pub(super) fn write_identity(user: &[u8], domain: &[u8], is_own: bool, out: &mut Vec<u8>) {
    begin(CONTACT_CARD, 0, 0, out);
    if is_own {
        own(0, 1, "static", out);
    }
    let card = b"><contactCard xmlns=\"http://schemas.microsoft.com/2006/09/sip/contactcard\"><identity><name><displayName>";
    put(out, &[card, user, b"</displayName></name><email>", user, b"@", domain]);
    out.extend_from_slice(b"</email></identity></contactCard></category>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_users_and_calendars_come_to_one_availability() {
        use Input::{Machine, Other, User};
        for (inputs, expected) in [
            (&[][..], 0),
            (&[User(3_500)], 0),
            (&[Machine(18_500), User(3_500)], OFFLINE),
            (&[Machine(3_500)], 3_500),
            (&[Machine(15_500), Machine(3_500)], 3_500),
            (&[Machine(3_500), User(6_500)], 6_500),
            (&[Machine(3_500), User(15_500)], 15_500),
            (&[Machine(3_500), User(3_500), Other(6_500)], 6_500),
            (&[Machine(3_500), User(3_500), Other(15_500)], 3_500),
            (&[Machine(5_000), User(3_500)], 5_000),
            (&[Machine(15_500), User(3_500)], 15_500),
            (&[Machine(15_500), User(6_500)], 7_500),
            (&[Machine(5_000), User(6_500)], 7_500),
            (&[Machine(5_000), User(9_500)], 9_500),
            (&[Machine(3_500), Other(6_500)], 6_500),
        ] {
            assert_eq!(aggregate(inputs.iter().copied()), expected, "{inputs:?}");
        }
        assert_eq!([9_500, 6_500, 12_500].map(for_workgroup), [6_900, 6_500, 12_500]);
    }

    #[test]
    fn names_and_numbers_agree() {
        for c in each(ALL) {
            assert_eq!(category(name(c)), Some(c));
        }
        assert_eq!(each(ALL).count(), NAMES.len());
        assert_eq!(category("dress"), None);
        assert_eq!([STATE, NOTE, CONTACT_CARD].map(name), ["state", "note", "contactCard"]);
    }
}
