//! The contact list, as SOAP changes it.

mod common;

use common::Msg;
use common::lync::{Client, World, open};

fn soap(client: &mut Client, action: &str, inner: &str) -> common::Request {
    client.service(
        "SOAP+xml",
        &format!(
            "<SOAP-ENV:Envelope xmlns:SOAP-ENV=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             SOAP-ENV:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><SOAP-ENV:Body>\
             <m:{action} xmlns:m=\"http://schemas.microsoft.com/winrtc/2002/11/sip\">{inner}</m:{action}>\
             </SOAP-ENV:Body></SOAP-ENV:Envelope>"
        ),
    )
}

fn list(world: &mut World, client: &mut Client) -> Msg {
    let request = client.subscribe("vnd-microsoft-roaming-contacts");
    world.ok(client, &request).0
}

/// Point 11: a group, and a contact in it.
#[test]
fn groups_and_contacts_are_added_and_all_endpoints_are_told() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let mut other = world.client(1, 2);
    list(&mut world, &mut client);
    list(&mut world, &mut other);
    let request = soap(
        &mut client,
        "addGroup",
        "<m:name>Work &amp; more</m:name><m:externalURI /><m:deltaNum>1</m:deltaNum>",
    );
    let (answer, others) = world.ok(&client, &request);
    assert_eq!(answer.header("Content-Type"), "application/SOAP+xml");
    assert!(answer.body().contains("<m:addGroup xmlns:m=\"http://schemas.microsoft.com/winrtc/2002/11/sip\"><m:groupID>2</m:groupID><m:deltaNum>2</m:deltaNum></m:addGroup>"));
    assert_eq!(others.len(), 2);
    assert_eq!([others[0].peer, others[1].peer], [client.peer, other.peer]);
    for told in &others {
        assert_eq!(told.header("Content-Type"), "application/vnd-microsoft-roaming-contacts+xml");
        assert_eq!(
            told.body(),
            "<contactDelta deltaNum=\"2\" prevDeltaNum=\"1\"><addedGroup id=\"2\" name=\"Work &amp; more\" externalURI=\"\"/></contactDelta>"
        );
    }
    let set = "<m:displayName>Bob</m:displayName><m:groups>1 2 </m:groups><m:subscribed>true</m:subscribed>\
        <m:URI>sip:user000002@pool.test</m:URI><m:externalURI /><m:deltaNum>2</m:deltaNum>";
    let request = soap(&mut client, "setContact", set);
    let (answer, others) = world.ok(&client, &request);
    assert!(answer.body().contains("<m:deltaNum>3</m:deltaNum>"));
    // In a change the URI has its scheme.
    assert_eq!(
        others[0].body(),
        "<contactDelta deltaNum=\"3\" prevDeltaNum=\"2\"><addedContact uri=\"sip:user000002@pool.test\" name=\"Bob\" \
         groups=\"1 2\" subscribed=\"true\" externalURI=\"\"/></contactDelta>"
    );
    let request = soap(&mut client, "setContact", &set.replace(">Bob<", ">Bobby<"));
    assert!(
        world.ok(&client, &request).1[0]
            .body()
            .contains("<modifiedContact uri=\"sip:user000002@pool.test\" name=\"Bobby\"")
    );
    // In a list it has none.
    assert_eq!(
        list(&mut world, &mut client).body(),
        "<contactList deltaNum=\"4\"><group id=\"1\" name=\"~\" externalURI=\"\"/>\
         <group id=\"2\" name=\"Work &amp; more\" externalURI=\"\"/>\
         <contact uri=\"user000002@pool.test\" name=\"Bobby\" groups=\"1 2\" subscribed=\"true\" externalURI=\"\"/></contactList>"
    );
}

#[test]
fn groups_and_contacts_are_renamed_and_deleted() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    list(&mut world, &mut client);
    let mut change = |action: &str, inner: &str| {
        let request = soap(&mut client, action, inner);
        let sent = world.tell(&client, &request);
        (sent[0].code(), sent.get(1).map(|m| m.body().to_owned()).unwrap_or_default())
    };
    change("addGroup", "<m:name>a</m:name>");
    change("setContact", "<m:groups>1</m:groups><m:URI>sip:a@b.c</m:URI>");
    let (code, told) = change("modifyGroup", "<m:groupID>2</m:groupID><m:name>b</m:name>");
    assert!(code == 200 && told.contains("<modifiedGroup id=\"2\" name=\"b\""), "{told}");
    let (code, told) = change("deleteContact", "<m:URI>sip:A@b.c</m:URI>");
    assert!(code == 200 && told.contains("<deletedContact uri=\"sip:a@b.c\"/>"), "{told}");
    let (code, told) = change("deleteGroup", "<m:groupID>2</m:groupID>");
    assert!(code == 200 && told.contains("<deletedGroup id=\"2\""), "{told}");
    for (action, inner) in [
        ("deleteGroup", "<m:groupID>2</m:groupID>"),
        ("deleteGroup", "<m:groupID>two</m:groupID>"),
        ("deleteContact", "<m:URI>sip:a@b.c</m:URI>"),
        ("setContact", "<m:groups>1</m:groups>"),
        ("setPresence", ""),
    ] {
        assert_eq!(change(action, inner), (400, String::new()), "{action}");
    }
    let long = format!("<m:name>{}</m:name>", "x".repeat(600));
    assert_eq!(change("addGroup", &long).0, 400);
    let request = client.service("SOAP+xml", "<Envelope/>");
    assert_eq!(world.ask(&client, &request).code(), 400);
    assert_eq!(list(&mut world, &mut client).between("deltaNum=\"", "\""), ["6"]);
}

#[test]
fn a_list_has_an_end() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let mut codes = Vec::new();
    for n in 0..70 {
        let request = soap(&mut client, "addGroup", &format!("<m:name>{n}</m:name>"));
        codes.push(world.ask(&client, &request).code());
    }
    assert_eq!(codes.iter().filter(|code| **code == 200).count(), 63);
    assert!(codes[63..].iter().all(|code| *code == 400));
}
