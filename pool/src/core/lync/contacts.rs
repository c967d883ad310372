//! The contact list ([MS-SIP] "roaming contacts"), changed by SOAP in SERVICE,
//! and the settings that clients ask for at first.

use adsum_sip::{Message, Time};

use super::super::ids::write_number;
use super::dialog::Package;
use super::doc::{self, Element, Tree};
use super::notify::Content;
use super::{Lync, Out, Reply};

const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const CONTACTS: &str = "http://schemas.microsoft.com/winrtc/2002/11/sip";
/// Groups and contacts of one user: what clients let anybody have.
const MAX_GROUPS: usize = 64;
const MAX_CONTACTS: usize = 1_000;
/// Bytes of a name or URI.
const MAX_TEXT: usize = 512;

/// A user's contacts. `delta` counts changes, and is 1 at first: clients take 0 for none.
#[derive(Debug, Clone)]
pub(super) struct Contacts {
    delta: u32,
    groups: Vec<Group>,
    contacts: Vec<Contact>,
}

#[derive(Debug, Clone)]
struct Group {
    id: u32,
    name: String,
}

#[derive(Debug, Clone)]
struct Contact {
    /// Without its scheme.
    uri: String,
    name: String,
    /// Numbers of groups, with blanks between them.
    groups: String,
    is_subscribed: bool,
}

impl Default for Contacts {
    fn default() -> Self {
        // `~` is the group of those who are in no other.
        Contacts { delta: 1, groups: vec![Group { id: 1, name: "~".to_owned() }], contacts: Vec::new() }
    }
}

fn attribute(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    doc::escape(value, out);
    out.push(b'"');
}

fn number(name: &str, value: u32, out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    write_number(u64::from(value), out);
    out.push(b'"');
}

impl Group {
    fn write(&self, element: &str, out: &mut Vec<u8>) {
        out.push(b'<');
        out.extend_from_slice(element.as_bytes());
        number("id", self.id, out);
        attribute("name", &self.name, out);
        attribute("externalURI", "", out);
        out.extend_from_slice(b"/>");
    }
}

impl Contact {
    /// In a change the URI has its scheme, in the list it has none.
    fn write(&self, element: &str, scheme: &str, out: &mut Vec<u8>) {
        out.push(b'<');
        out.extend_from_slice(element.as_bytes());
        attribute("uri", &format!("{scheme}{}", self.uri), out);
        attribute("name", &self.name, out);
        attribute("groups", &self.groups, out);
        attribute("subscribed", if self.is_subscribed { "true" } else { "false" }, out);
        attribute("externalURI", "", out);
        out.extend_from_slice(b"/>");
    }
}

/// What a request came to: the change as it is told, and what the answer holds.
struct Changed {
    change: Vec<u8>,
    group: Option<u32>,
}

impl Contacts {
    fn change(&mut self, action: Element<'_>) -> Result<Changed, &'static str> {
        let text = |name: &str| {
            let text = action.child(name).map(|c| c.text().into_owned()).unwrap_or_default();
            if text.len() > MAX_TEXT { Err("a name or URI that is too long") } else { Ok(text) }
        };
        let id = || text("groupID")?.parse::<u32>().map_err(|_| "groupID is a number");
        let bare = |uri: String| uri.strip_prefix("sip:").map(str::to_owned).unwrap_or(uri);
        let mut change = Vec::new();
        let mut group = None;
        match action.name() {
            "addGroup" => {
                if self.groups.len() >= MAX_GROUPS {
                    return Err("too many groups");
                }
                let id = self.groups.iter().map(|g| g.id).max().unwrap_or(0) + 1;
                let added = Group { id, name: text("name")? };
                added.write("addedGroup", &mut change);
                self.groups.push(added);
                group = Some(id);
            }
            "modifyGroup" => {
                let id = id()?;
                let held = self.groups.iter_mut().find(|g| g.id == id).ok_or("no group of this groupID")?;
                held.name = text("name")?;
                held.write("modifiedGroup", &mut change);
            }
            "deleteGroup" => {
                let id = id()?;
                let at = self.groups.iter().position(|g| g.id == id).ok_or("no group of this groupID")?;
                self.groups.remove(at).write("deletedGroup", &mut change);
            }
            "setContact" => {
                let uri = bare(text("URI")?);
                if uri.is_empty() {
                    return Err("setContact without a URI");
                }
                let known = self.contacts.iter().position(|c| c.uri.eq_ignore_ascii_case(&uri));
                let contact = Contact {
                    uri,
                    name: text("displayName")?,
                    groups: text("groups")?,
                    is_subscribed: !text("subscribed")?.eq_ignore_ascii_case("false"),
                };
                let element = if known.is_some() { "modifiedContact" } else { "addedContact" };
                contact.write(element, "sip:", &mut change);
                match known {
                    Some(at) => self.contacts[at] = contact,
                    None if self.contacts.len() >= MAX_CONTACTS => return Err("too many contacts"),
                    None => self.contacts.push(contact),
                }
            }
            "deleteContact" => {
                let uri = bare(text("URI")?);
                let known = self.contacts.iter().position(|c| c.uri.eq_ignore_ascii_case(&uri));
                let at = known.ok_or("no contact of this URI")?;
                let contact = self.contacts.remove(at);
                change.extend_from_slice(b"<deletedContact");
                attribute("uri", &format!("sip:{}", contact.uri), &mut change);
                change.extend_from_slice(b"/>");
            }
            _ => return Err("addGroup, modifyGroup, deleteGroup, setContact or deleteContact"),
        }
        self.delta += 1;
        Ok(Changed { change, group })
    }
}

impl Lync {
    /// SERVICE with a SOAP envelope. The `deltaNum` that a client believes in
    /// is not compared: what a server does with a wrong one was not to be found.
    pub(super) fn soap(&mut self, now: Time, user: u32, message: &Message<'_>, out: &mut Vec<Out>) -> Reply {
        let tree = match Tree::read(message.body()) {
            Ok(tree) if tree.root().is(ENVELOPE, "Envelope") => tree,
            _ => return self.not_xml(),
        };
        let Some(action) = tree.root().child("Body").and_then(|body| body.children().next()) else {
            return self.not_xml();
        };
        let contacts = self.users.entry(user).contacts.get_or_insert_default();
        let before = contacts.delta;
        let changed = match contacts.change(action) {
            Ok(changed) => changed,
            Err(reason) => return self.refusal(400, 4000, reason),
        };
        let delta = contacts.delta;
        self.body.clear();
        self.body.extend_from_slice(b"<contactDelta");
        number("deltaNum", delta, &mut self.body);
        number("prevDeltaNum", before, &mut self.body);
        self.body.push(b'>');
        self.body.extend_from_slice(&changed.change);
        self.body.extend_from_slice(b"</contactDelta>");
        let endpoints = self.users.entry(user).endpoints.clone();
        for endpoint in endpoints {
            let dialogs = self.endpoints[endpoint].dialogs.clone();
            for slot in dialogs {
                if self.dialogs[slot].package == Package::RoamingContacts {
                    self.notify(now, now, slot, Content::RoamingContacts, true, out);
                }
            }
        }
        self.body.clear();
        let name = action.name();
        let group = changed.group.map(|id| format!("<m:groupID>{id}</m:groupID>")).unwrap_or_default();
        let envelope = format!(
            "<SOAP-ENV:Envelope xmlns:SOAP-ENV=\"{ENVELOPE}\"><SOAP-ENV:Body><m:{name} xmlns:m=\"{CONTACTS}\">\
             {group}<m:deltaNum>{delta}</m:deltaNum></m:{name}></SOAP-ENV:Body></SOAP-ENV:Envelope>"
        );
        self.body.extend_from_slice(envelope.as_bytes());
        self.line(b"Content-Type", b"application/SOAP+xml");
        Reply::new(200)
    }

    /// The whole list, into `body`.
    pub(super) fn write_contacts(&mut self, user: u32) {
        let fallback = Contacts::default();
        let held = self.users.get(user).and_then(|u| u.contacts.as_deref()).unwrap_or(&fallback);
        self.body.extend_from_slice(b"<contactList");
        number("deltaNum", held.delta, &mut self.body);
        self.body.push(b'>');
        held.groups.iter().for_each(|group| group.write("group", &mut self.body));
        held.contacts.iter().for_each(|contact| contact.write("contact", "", &mut self.body));
        self.body.extend_from_slice(b"</contactList>");
    }

    /// What a client is to know of its server, into `body`: next to nothing,
    /// as there are no address book, conferences or policies here.
    pub(super) fn write_provisioning(&mut self) {
        let namespace = "http://schemas.microsoft.com/2006/09/sip/provisiongrouplist-notification";
        let text = format!(
            "<provisionGroupList xmlns=\"{namespace}\"><provisionGroup name=\"ServerConfiguration\">\
             <organization>{}</organization></provisionGroup></provisionGroupList>",
            quick_xml::escape::escape(&self.config.domain)
        );
        self.body.extend_from_slice(text.as_bytes());
    }
}
