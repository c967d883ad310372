//! What the server holds of a user's own presence: the version of each
//! instance that we publish ([MS-PRES] §2.2.2), and who may see it.
//!
//! A publication has to name the version that it replaces, 0 for none. It is
//! learned from the self-subscription, from the answer to the publication
//! before, or else from the 409 that a wrong one gets.

use memchr::memmem;

use super::identity::Epid;
use super::tags::{Tag, Tags};

/// How many instances a user has.
pub const OWN_LEN: usize = 8;

/// The number of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Fixed(u32),
    Device,
    Machine,
}

/// One instance that a user publishes.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    /// The category's name.
    pub category: &'static str,
    /// The container.
    pub container: u32,
    /// `expireType`: `endpoint` ends with the registration, `static` never.
    pub life: &'static str,
    number: Number,
}

const fn own(category: &'static str, container: u32, life: &'static str, number: Number) -> Own {
    Own { category, container, life, number }
}

/// All of them, in the order in which they are published. `state` goes into the
/// two containers that the server aggregates from, `note` into those that
/// colleagues are shown (protocol guide §3.6).
pub const OWN: [Own; OWN_LEN] = [
    own("device", 2, "endpoint", Number::Device),
    own("state", 2, "endpoint", Number::Machine),
    own("state", 3, "endpoint", Number::Machine),
    own("state", 2, "static", Number::Fixed(0x2000_0000)),
    own("state", 3, "static", Number::Fixed(0x2000_0000)),
    own("note", 200, "static", Number::Fixed(0)),
    own("note", 300, "static", Number::Fixed(0)),
    own("note", 400, "static", Number::Fixed(0)),
];

impl Own {
    /// Its number at this endpoint.
    #[must_use]
    pub fn number(&self, epid: &Epid) -> u32 {
        match self.number {
            Number::Fixed(number) => number,
            Number::Device => epid.device(),
            Number::Machine => epid.machine_state(),
        }
    }

    /// True if it ends with the registration.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.life == "endpoint"
    }
}

/// The versions that the server holds, in the order of [`OWN`]; 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Versions(pub [u32; OWN_LEN]);

/// What a document of the self-subscription said besides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Learned {
    /// It was such a document.
    pub is_document: bool,
    /// Version of the container that colleagues are shown (200); `None` if it did not name it.
    pub colleagues: Option<u32>,
    /// Everybody of the same enterprise belongs to it.
    pub same_enterprise: bool,
    /// Endpoints of the user besides this one, each with its device: somebody works with the account.
    pub others: u32,
}

/// The container that colleagues are shown.
pub const COLLEAGUES: u32 = 200;

impl Versions {
    /// Learns from a document. It holds all instances of each category and
    /// container that it names: what is missing there is gone. The first of a
    /// subscription is `full` and names everything.
    pub fn learn(&mut self, body: &[u8], epid: &Epid, full: bool) -> Learned {
        let mut learned = Learned::default();
        let mut touched = [full; OWN_LEN];
        let mut held = if full { Versions::default() } else { *self };
        let mut in_colleagues = false;
        for tag in Tags::of(body) {
            match tag.name {
                b"roamingData" | b"categories" | b"containers" => learned.is_document = true,
                b"category" => {
                    held.category(&tag, epid, &mut touched);
                    let device =
                        tag.attribute(b"name") == Some(b"device") && tag.number(b"container") == Some(2);
                    let instance = tag.number(b"instance").filter(|instance| *instance != epid.device());
                    learned.others += u32::from(device && instance.is_some());
                }
                b"container" => {
                    in_colleagues = tag.number(b"id") == Some(COLLEAGUES);
                    if in_colleagues {
                        learned.colleagues = tag.number(b"version").or(Some(0));
                    }
                }
                b"member" if in_colleagues => {
                    learned.same_enterprise |= tag.attribute(b"type") == Some(b"sameEnterprise");
                }
                _ => {}
            }
        }
        if learned.is_document {
            *self = held;
        }
        learned
    }

    fn category(&mut self, tag: &Tag<'_>, epid: &Epid, touched: &mut [bool; OWN_LEN]) {
        let Some(name) = tag.attribute(b"name") else { return };
        let (container, instance) = (tag.number(b"container"), tag.number(b"instance"));
        for (at, own) in OWN.iter().enumerate().filter(|(_, own)| own.category.as_bytes() == name) {
            // Without a container the category is empty in all of them.
            if container.is_some_and(|container| container != own.container) {
                continue;
            }
            if !std::mem::replace(&mut touched[at], true) {
                self.0[at] = 0;
            }
            if instance == Some(own.number(epid)) {
                self.0[at] = tag.number(b"version").unwrap_or(0);
            }
        }
    }

    /// Our publication was taken and nothing else was said: each of its
    /// instances is one version on, or gone.
    pub fn published(&mut self, request: &[u8], epid: &Epid) {
        for tag in Tags::of(request).filter(|tag| tag.name == b"publication") {
            if let Some(at) = place(&tag, epid) {
                let is_gone = tag.number(b"expires") == Some(0);
                self.0[at] = if is_gone { 0 } else { tag.number(b"version").unwrap_or(0).saturating_add(1) };
            }
        }
    }

    /// Our publication was refused with a 409 ([MS-PRES], `msrtc-fault`): takes
    /// the versions that it names. `false` if it names none that we can take.
    pub fn corrected(&mut self, request: &[u8], fault: &[u8], epid: &Epid) -> bool {
        // Another Faultcode is no matter of versions. [UNV] A fault without one is read, too.
        if memmem::find(fault, b"Faultcode>").is_some() && memmem::find(fault, b"WrongDelta").is_none() {
            return false;
        }
        let mut any = false;
        // We never publish more than `OWN_LEN`; a hostile fault may name as many as it likes.
        for operation in Tags::of(fault).filter(|tag| tag.name == b"operation").take(4 * OWN_LEN) {
            let (Some(index), Some(current)) = (operation.number(b"index"), operation.number(b"curVersion"))
            else {
                continue;
            };
            let mut publications = Tags::of(request).filter(|tag| tag.name == b"publication");
            let meant = (index as usize).checked_sub(1).filter(|nth| *nth < OWN_LEN);
            let named = meant.and_then(|nth| publications.nth(nth));
            if let Some(at) = named.and_then(|tag| place(&tag, epid)) {
                self.0[at] = current;
                any = true;
            }
        }
        any
    }

    /// The registration ended, and what was bound to it.
    pub fn unbound(&mut self) {
        for (version, own) in self.0.iter_mut().zip(&OWN) {
            if own.is_bound() {
                *version = 0;
            }
        }
    }
}

/// Which of [`OWN`] a `publication` of ours is.
fn place(tag: &Tag<'_>, epid: &Epid) -> Option<usize> {
    let (name, container) = (tag.attribute(b"categoryName")?, tag.number(b"container")?);
    let instance = tag.number(b"instance")?;
    OWN.iter().position(|own| {
        own.category.as_bytes() == name && own.container == container && own.number(epid) == instance
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPID: Epid = Epid(*b"5f0a1b2c3d");

    fn learn(versions: &mut Versions, body: &str, full: bool) -> Learned {
        versions.learn(body.as_bytes(), &EPID, full)
    }

    #[test]
    fn the_first_document_says_everything() {
        let mut versions = Versions([9; OWN_LEN]);
        let body = r#"<roamingData xmlns="http://schemas.microsoft.com/2006/09/sip/roaming-self">
            <categories uri="sip:a@h"><category name="contactCard" instance="0" container="0" version="1"/>
            <category name="note" instance="0" publishTime="2026-01-05T09:10:00.000" container="200" version="7" expireType="static"><note><body type="personal" uri="">old</body></note></category>
            <category name="state" instance="904962482" container="2" version="3"/>
            <category name="state" instance="536870912" container="3" version="4"/>
            <category name="state" instance="1" container="200" version="5"/></categories>
            <containers><container id="100" version="4"><member type="federated"/><member type="sameEnterprise"/></container>
            <container id="200" version="6"><member type="user" value="x@h"/></container></containers></roamingData>"#;
        let learned = learn(&mut versions, body, true);
        assert_eq!(versions.0, [0, 3, 0, 0, 4, 7, 0, 0]);
        let wanted = Learned { is_document: true, colleagues: Some(6), same_enterprise: false, others: 0 };
        assert_eq!(learned, wanted);
        assert!(
            learn(&mut versions, r#"<containers><container id="200"><member type="sameEnterprise"/>"#, false)
                .same_enterprise
        );
        assert!(!learn(&mut versions, "sorry", true).is_document);
        assert_eq!(versions.0[5], 7, "what is no document says nothing");
    }

    #[test]
    fn devices_that_are_not_ours_are_other_endpoints() {
        let body = format!(
            r#"<roamingData><categories><category name="device" instance="{}" container="2" version="1"/>
            <category name="device" instance="7" container="2" version="1"/><category name="device" container="2"/>
            <category name="device" instance="8" container="3" version="1"/></categories></roamingData>"#,
            EPID.device()
        );
        assert_eq!(learn(&mut Versions::default(), &body, true).others, 1);
    }

    #[test]
    fn a_later_document_replaces_the_categories_that_it_names() {
        let mut versions = Versions([1, 2, 3, 4, 5, 6, 7, 8]);
        learn(
            &mut versions,
            r#"<categories><category name="state" instance="536870912" container="2" version="9"/></categories>"#,
            false,
        );
        assert_eq!(versions.0, [1, 0, 3, 9, 5, 6, 7, 8], "the machine's state is gone from container 2");
        learn(&mut versions, r#"<categories><category name="note" container="200"/></categories>"#, false);
        assert_eq!(versions.0, [1, 0, 3, 9, 5, 0, 7, 8]);
        learn(&mut versions, r#"<categories><category name="note"/></categories>"#, false);
        assert_eq!(versions.0, [1, 0, 3, 9, 5, 0, 0, 0]);
        versions.unbound();
        assert_eq!(versions.0, [0, 0, 0, 9, 5, 0, 0, 0]);
    }

    #[test]
    fn answers_move_the_versions_on_and_faults_put_them_right() {
        let request = br#"<publish><publications uri="sip:a@h">
            <publication categoryName="state" instance="536870912" container="2" version="2" expireType="static"/>
            <publication categoryName="note" instance="0" container="200" version="7" expireType="static"/>
            <publication categoryName="note" instance="0" container="300" version="7" expireType="static" expires="0"/></publications></publish>"#;
        let mut versions = Versions([5; OWN_LEN]);
        versions.published(request, &EPID);
        assert_eq!(versions.0, [5, 5, 5, 3, 5, 8, 0, 5]);
        let fault = |code: &str, operations: &str| {
            format!("<Fault><Faultcode>{code}</Faultcode><details>{operations}</details></Fault>")
        };
        let wrong = "Client.BadCall.WrongDelta";
        let named =
            r#"<operation index="2" version="7" curVersion="9"/><operation index="9" curVersion="1"/>"#;
        assert!(versions.corrected(request, fault(wrong, named).as_bytes(), &EPID));
        assert_eq!(versions.0, [5, 5, 5, 3, 5, 9, 0, 5]);
        assert!(!versions.corrected(request, fault("Client.BadCall.Other", named).as_bytes(), &EPID));
        let nothing = r#"<operation index="0" curVersion="1"/><operation index="4" curVersion="1"/>"#;
        assert!(!versions.corrected(request, fault(wrong, nothing).as_bytes(), &EPID));
    }
}
