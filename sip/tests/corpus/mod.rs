//! Well-formed messages: those of presence, and torture after the ideas of
//! RFC 4475. Each says what is to be read from it and what rsip makes of it.

use std::sync::LazyLock;

use adsum_sip::oracle::Field;

/// One message of the corpus.
pub struct Case {
    /// What it is about.
    pub name: &'static str,
    /// The bytes.
    pub raw: Vec<u8>,
    /// Method and Request-URI, or the status code.
    pub start: &'static str,
    /// Call-ID, CSeq, From tag, To tag, branch of the topmost Via, URI of the
    /// first Contact; `-` for none.
    pub fields: [&'static str; 6],
    /// The length of the body.
    pub body: usize,
    /// The field that rsip cannot read; `None` if it reads them all.
    pub gap: Option<Field>,
}

const NONE: &str = "-";

/// Line feeds become CRLF.
fn case(
    name: &'static str,
    start: &'static str,
    fields: [&'static str; 6],
    body: usize,
    gap: Option<Field>,
    text: &str,
) -> Case {
    let raw = text.replace('\n', "\r\n").into_bytes();
    Case { name, raw, start, fields, body, gap }
}

/// All messages.
pub fn corpus() -> &'static [Case] {
    static ALL: LazyLock<Vec<Case>> =
        LazyLock::new(|| [presence(), spacing(), addresses(), bodies()].into_iter().flatten().collect());
    &ALL
}

fn presence() -> Vec<Case> {
    vec![
        case(
            "REGISTER",
            "REGISTER sip:loadlab.test",
            [
                "adsum000001000r000001000",
                "1 REGISTER",
                "f-51a2",
                NONE,
                "z9hG4bK0001",
                "sip:sub1@192.0.2.77:41234;transport=tcp",
            ],
            0,
            None,
            "REGISTER sip:loadlab.test SIP/2.0\nVia: SIP/2.0/TCP 192.0.2.77:41234;branch=z9hG4bK0001\n\
             Max-Forwards: 70\nFrom: <sip:sub1@loadlab.test>;tag=f-51a2\nTo: <sip:sub1@loadlab.test>\n\
             Call-ID: adsum000001000r000001000\nCSeq: 1 REGISTER\n\
             Contact: <sip:sub1@192.0.2.77:41234;transport=tcp>;expires=600\nExpires: 600\n\
             Supported: path, outbound\nAllow: NOTIFY, OPTIONS, MESSAGE\nContent-Length: 0\n\n",
        ),
        case(
            "REGISTER with an instance and credentials",
            "REGISTER sip:loadlab.test",
            ["reg-1@192.0.2.77", "2 REGISTER", "f", NONE, "z9hG4bK2", "sip:s@192.0.2.77:41234"],
            0,
            Some(Field::Contact),
            "REGISTER sip:loadlab.test SIP/2.0\nVia: SIP/2.0/TLS 192.0.2.77:41234;branch=z9hG4bK2;rport\n\
             From: \"Sub, One\" <sip:s@loadlab.test>;tag=f\nTo: <sip:s@loadlab.test>\nCall-ID: reg-1@192.0.2.77\n\
             CSeq: 2 REGISTER\nContact: <sip:s@192.0.2.77:41234>;+sip.instance=\"<urn:uuid:6f1d2a34>\";reg-id=1\n\
             Authorization: Digest username=\"s\", realm=\"a, b\", nonce=\"x;=\", uri=\"sip:loadlab.test\", \
             response=\"00\", algorithm=SHA-256, nc=0000000a\nContent-Length: 0\n\n",
        ),
        case(
            "401 with two challenges",
            "401",
            ["reg-1@192.0.2.77", "2 REGISTER", "f", "t", "z9hG4bK2", NONE],
            0,
            None,
            "SIP/2.0 401 Unauthorized\nVia: SIP/2.0/UDP 192.0.2.77:41234;branch=z9hG4bK2;received=192.0.2.78;rport=4\n\
             From: <sip:s@loadlab.test>;tag=f\nTo: <sip:s@loadlab.test>;tag=t\nCall-ID: reg-1@192.0.2.77\n\
             CSeq: 2 REGISTER\nWWW-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth,auth-int\", algorithm=SHA-256\n\
             WWW-Authenticate: Digest realm=\"r\", nonce=\"n\", algorithm=MD5\nContent-Length: 0\n\n",
        ),
        case(
            "200 with Record-Route",
            "200",
            ["sub-1", "17 SUBSCRIBE", "a", "b", "z9hG4bKs17", "sip:pa@192.0.2.1:5060"],
            0,
            None,
            "SIP/2.0 200 OK\nVia: SIP/2.0/UDP 192.0.2.77;branch=z9hG4bKs17\nRecord-Route: <sip:p1;lr>, <sip:p2;lr>\n\
             From: <sip:w@h.test>;tag=a\nTo: <sip:p@h.test>;tag=b\nCall-ID: sub-1\nCSeq: 17 SUBSCRIBE\n\
             Contact: <sip:pa@192.0.2.1:5060>\nExpires: 3600\nContent-Length: 0\n\n",
        ),
        case(
            "SUBSCRIBE",
            "SUBSCRIBE sip:p@h.test",
            ["sub-1", "17 SUBSCRIBE", "a", NONE, "z9hG4bKs17", "sip:w@192.0.2.77:5062"],
            0,
            None,
            "SUBSCRIBE sip:p@h.test SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.77;rport;branch=z9hG4bKs17\nMax-Forwards: 70\n\
             Route: <sip:p1.h.test;lr>\nFrom: <sip:w@h.test>;tag=a\nTo: <sip:p@h.test>\nCall-ID: sub-1\n\
             CSeq: 17 SUBSCRIBE\nContact: <sip:w@192.0.2.77:5062>\nEvent: presence\n\
             Accept: application/pidf+xml, multipart/related\nExpires: 3600\nContent-Length: 0\n\n",
        ),
        case(
            "NOTIFY through two proxies",
            "NOTIFY sip:w@192.0.2.77:5062",
            ["sub-1", "1 NOTIFY", "b", "a", "z9hG4bKp1.1", "sip:pa@192.0.2.1:5060"],
            34,
            None,
            "NOTIFY sip:w@192.0.2.77:5062 SIP/2.0\nVia: SIP/2.0/UDP p1.h.test;branch=z9hG4bKp1.1\n\
             Via: SIP/2.0/TCP p2.h.test:5061;branch=z9hG4bKp2.1;received=192.0.2.9\n\
             Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKpa\nMax-Forwards: 68\nFrom: <sip:p@h.test>;tag=b\n\
             To: <sip:w@h.test>;tag=a\nCall-ID: sub-1\nCSeq: 1 NOTIFY\nContact: <sip:pa@192.0.2.1:5060>\n\
             Event: presence\nSubscription-State: active;expires=3599\nContent-Type: application/pidf+xml\n\
             Content-Length: 34\n\n<presence entity=\"pres:p@h.test\"/>",
        ),
        case(
            "PUBLISH with an entity tag",
            "PUBLISH sip:p@h.test",
            ["pub-1", "3 PUBLISH", "p", NONE, "z9hG4bKpub3", NONE],
            7,
            None,
            "PUBLISH sip:p@h.test SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.76:5062;rport;branch=z9hG4bKpub3\n\
             Max-Forwards: 70\nFrom: <sip:p@h.test>;tag=p\nTo: <sip:p@h.test>\nCall-ID: pub-1\nCSeq: 3 PUBLISH\n\
             Event: presence\nSIP-If-Match: dx200xyz\nExpires: 600\nContent-Type: application/pidf+xml\n\
             Content-Length: 7\n\n<p>\n</p",
        ),
        case(
            "423 of a registrar",
            "423",
            ["reg-1", "2 REGISTER", "f", "t", "z9hG4bK2", NONE],
            0,
            None,
            "SIP/2.0 423 Interval Too Brief\nVia: SIP/2.0/UDP h;branch=z9hG4bK2\nFrom: <sip:s@h>;tag=f\n\
             To: <sip:s@h>;tag=t\nCall-ID: reg-1\nCSeq: 2 REGISTER\nMin-Expires: 1800\nContent-Length: 0\n\n",
        ),
        case(
            "SERVICE, a method that rsip does not know",
            "SERVICE sip:u@h.test",
            ["svc", "1 SERVICE", "f", NONE, "z9hG4bKv", NONE],
            2,
            Some(Field::Message),
            "SERVICE sip:u@h.test SIP/2.0\nVia: SIP/2.0/TLS 192.0.2.5:4;branch=z9hG4bKv\nFrom: <sip:u@h.test>;tag=f;epid=01\n\
             To: <sip:u@h.test>\nCall-ID: svc\nCSeq: 1 SERVICE\nContent-Type: application/SOAP+xml\nContent-Length: 2\n\nok",
        ),
        case(
            "BENOTIFY to a gruu",
            "BENOTIFY sip:u@h.test;opaque=user:epid:AbC_1-x;gruu",
            ["ben", "9 BENOTIFY", "s", "c", "z9hG4bKb", NONE],
            0,
            Some(Field::Message),
            "BENOTIFY sip:u@h.test;opaque=user:epid:AbC_1-x;gruu SIP/2.0\nVia: SIP/2.0/TLS 192.0.2.5:5061;branch=z9hG4bKb\n\
             From: <sip:u@h.test>;tag=s\nTo: <sip:u@h.test>;tag=c;epid=02\nCall-ID: ben\nCSeq: 9 BENOTIFY\n\
             Subscription-State: active;expires=9\nContent-Length: 0\n\n",
        ),
    ]
}

fn spacing() -> Vec<Case> {
    vec![
        case(
            "short forms",
            "NOTIFY sip:w@h",
            ["c-1", "1 NOTIFY", "f", "t", "z9hG4bKc", "sip:pa@h"],
            1,
            None,
            "NOTIFY sip:w@h SIP/2.0\nv: SIP/2.0/UDP h;branch=z9hG4bKc\nf: <sip:p@h>;tag=f\nt: <sip:w@h>;tag=t\ni: c-1\n\
             CSeq: 1 NOTIFY\nm: <sip:pa@h>\no: presence\nu: presence\nk: path\ne: identity\ns: x\nc: text/plain\nl: 1\n\n.",
        ),
        case(
            "odd case of names and blanks around the colon",
            "OPTIONS sip:w@h",
            ["c-2", "2 OPTIONS", "f", NONE, "z9hG4bKc2", NONE],
            0,
            None,
            "OPTIONS sip:w@h SIP/2.0\nvIA  :SIP/2.0/UDP h;branch=z9hG4bKc2\nFROM\t:\t<sip:p@h>;tag=f  \ntO: <sip:w@h>\n\
             CALL-id :c-2\ncSeQ:2     OPTIONS\ncontent-LENGTH :  0  \n\n",
        ),
        case(
            "blanks around every separator",
            "OPTIONS sip:w@h",
            ["c-3", "0009 OPTIONS", "f", "t", "z9hG4bKc3", "sip:p@h"],
            0,
            None,
            "OPTIONS sip:w@h SIP/2.0\nVia: SIP  / 2.0  /  UDP   h : 5060 ; ttl = 1 ; branch =  z9hG4bKc3 ; rport\n\
             From:   <sip:p@h>   ;   tag   =   f\nTo: \"w\"   <sip:w@h> ; tag= t ;x\nCall-ID: c-3\nCSeq: 0009 OPTIONS\n\
             Contact: \"P\"  <sip:p@h> ; q = 0.5\nContent-Length: 0\n\n",
        ),
        case(
            "folded values",
            "NOTIFY sip:w@h",
            ["c-4", "4 NOTIFY", "f", "t", "z9hG4bKc4", "sip:pa@h"],
            0,
            None,
            "NOTIFY sip:w@h SIP/2.0\nVia: SIP/2.0/UDP\n h;branch=z9hG4bKc4\n ;rport\nFrom:\n <sip:p@h>\n\t;tag=f\n\
             To: <sip:w@h>;\n  tag=t\nCall-ID:\n c-4\nCSeq: 4\n  NOTIFY\nContact:\n   <sip:pa@h>\nSubject: one\n two\n\
             \t three\nContent-Length:\n 0\n\n",
        ),
        case(
            "two Vias in one line",
            "200",
            ["c-5", "5 NOTIFY", "f", "t", "z9hG4bKc5", NONE],
            0,
            None,
            "SIP/2.0 200 OK\nVia: SIP/2.0/UDP h;branch=z9hG4bKc5, SIP/2.0/UDP g;branch=z9hG4bKother\n\
             From: <sip:p@h>;tag=f\nTo: <sip:w@h>;tag=t\nCall-ID: c-5\nCSeq: 5 NOTIFY\nContent-Length: 0\n\n",
        ),
        case(
            "only the second Via has a branch",
            "200",
            ["c-6", "6 NOTIFY", "f", "t", NONE, NONE],
            0,
            None,
            "SIP/2.0 200 OK\nVia: SIP/2.0/UDP h, SIP/2.0/UDP g;branch=z9hG4bKother\n\
             From: <sip:p@h>;tag=f\nTo: <sip:w@h>;tag=t\nCall-ID: c-6\nCSeq: 6 NOTIFY\nContent-Length: 0\n\n",
        ),
        case(
            "no reason phrase, parameters in capitals",
            "200",
            ["c-7", "7 NOTIFY", "F", "T", "z9hG4bKC7", NONE],
            0,
            None,
            "SIP/2.0 200 \nVia: SIP/2.0/UDP H;BRANCH=z9hG4bKC7\nFrom: <sip:p@h>;TAG=F\nTo: <sip:w@h>;Tag=T\n\
             Call-ID: c-7\nCSeq: 7 NOTIFY\nContent-Length: 0\n\n",
        ),
        case(
            "a reason phrase in UTF-8 and a code nobody knows",
            "699",
            ["c-8", "8 NOTIFY", "f", "t", "z9hG4bKc8", NONE],
            0,
            None,
            "SIP/2.0 699 = 2**3 * 5**2 но сто\nVia: SIP/2.0/UDP h;branch=z9hG4bKc8\nFrom: <sip:p@h>;tag=f\n\
             To: <sip:w@h>;tag=t\nCall-ID: c-8\nCSeq: 8 NOTIFY\nContent-Length: 0\n\n",
        ),
        case(
            "empty values",
            "OPTIONS sip:w@h",
            ["c-9", "9 OPTIONS", "f", NONE, "z9hG4bKc9", NONE],
            0,
            None,
            "OPTIONS sip:w@h SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKc9\nFrom: <sip:p@h>;tag=f\nTo: <sip:w@h>\n\
             Call-ID: c-9\nCSeq: 9 OPTIONS\nSubject:\nSupported: \nAccept:\t\nX-Y:\n \nContent-Length: 0\n\n",
        ),
        Case {
            name: "bare line feeds and line breaks before the start",
            raw: b"\r\n\r\n\nOPTIONS sip:w@h SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKlf\nFrom: <sip:p@h>;tag=f\n\
                   To: <sip:w@h>\nCall-ID: lf\r\nCSeq: 1 OPTIONS\nl: 0\n\n"
                .to_vec(),
            start: "OPTIONS sip:w@h",
            fields: ["lf", "1 OPTIONS", "f", NONE, "z9hG4bKlf", NONE],
            body: 0,
            gap: None,
        },
    ]
}

fn addresses() -> Vec<Case> {
    let long = "x".repeat(4_000);
    let vias = "Via: SIP/2.0/UDP hop.example.test:5060;branch=z9hG4bKhop;received=192.0.2.9\n".repeat(60);
    vec![
        case(
            "escaped quotes and a comma in display names",
            "OPTIONS sip:w@h",
            ["a-1", "1 OPTIONS", "f", "t", "z9hG4bKa1", "sip:p@h"],
            0,
            None,
            "OPTIONS sip:w@h SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKa1\nFrom: \"J, Rosenberg \\\\\\\"\" <sip:p@h>;tag=f\n\
             To: \"\\\";tag=no\" <sip:w@h>;tag=t\nCall-ID: a-1\nCSeq: 1 OPTIONS\nContact: \"a, b; c\" <sip:p@h>\n\
             Content-Length: 0\n\n",
        ),
        case(
            "angle brackets in a display name",
            "OPTIONS sip:w@h",
            ["a-2", "2 OPTIONS", "f", "t", "z9hG4bKa2", "sip:p@h"],
            0,
            Some(Field::FromTag),
            "OPTIONS sip:w@h SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKa2\nFrom: \"<sip:no@h>;tag=no\" <sip:p@h>;tag=f\n\
             To: \"> <\" <sip:w@h>;tag=t\nCall-ID: a-2\nCSeq: 2 OPTIONS\nContact: \"<x>\" <sip:p@h>\nContent-Length: 0\n\n",
        ),
        case(
            "addresses without brackets",
            "OPTIONS sip:w@h",
            ["a-3", "3 OPTIONS", "f", "t", "z9hG4bKa3", "sip:p@h"],
            0,
            None,
            "OPTIONS sip:w@h SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKa3\nFrom: sip:p@h;tag=f\nTo: sip:w@h ;x=y;tag=t\n\
             Call-ID: a-3\nCSeq: 3 OPTIONS\nContact: sip:p@h;expires=5\nContent-Length: 0\n\n",
        ),
        case(
            "parameters of the URI are not those of the header",
            "OPTIONS sip:w@h;tag=uri",
            ["a-4", "4 OPTIONS", "f", NONE, "z9hG4bKa4", "sip:p@h;tag=no"],
            0,
            None,
            "OPTIONS sip:w@h;tag=uri SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKa4\nFrom: <sip:p@h;tag=no>;tag=f\n\
             To: <sip:w@h;tag=no>\nCall-ID: a-4\nCSeq: 4 OPTIONS\nContact: <sip:p@h;tag=no>\nContent-Length: 0\n\n",
        ),
        case(
            "several contacts in one line",
            "302",
            ["a-5", "5 SUBSCRIBE", "f", "t", "z9hG4bKa5", "sip:p@h"],
            0,
            None,
            "SIP/2.0 302 Moved Temporarily\nVia: SIP/2.0/UDP h;branch=z9hG4bKa5\nFrom: <sip:p@h>;tag=f\nTo: <sip:w@h>;tag=t\n\
             Call-ID: a-5\nCSeq: 5 SUBSCRIBE\nContact: \"x, y\" <sip:p@h>;q=1, <sip:q@h>;q=0.1\nContact: <sip:r@h>\n\
             Content-Length: 0\n\n",
        ),
        case(
            "IPv6 in the Request-URI",
            "OPTIONS sip:w@[2001:db8::10]:5070",
            ["a-6", "6 OPTIONS", "f", NONE, "z9hG4bKa6", "sip:p@[2001:db8::1]"],
            0,
            Some(Field::Message),
            "OPTIONS sip:w@[2001:db8::10]:5070 SIP/2.0\nVia: SIP/2.0/UDP [2001:db8::1]:5060;branch=z9hG4bKa6\n\
             From: <sip:p@[2001:db8::1]>;tag=f\nTo: <sip:w@[2001:db8::10]>\nCall-ID: a-6\nCSeq: 6 OPTIONS\n\
             Contact: <sip:p@[2001:db8::1]>\nContent-Length: 0\n\n",
        ),
        case(
            "IPv6 in Via only",
            "200",
            ["a-7", "7 OPTIONS", "f", "t", "z9hG4bKa7", NONE],
            0,
            Some(Field::Branch),
            "SIP/2.0 200 OK\nVia: SIP/2.0/UDP [2001:db8::1];received=2001:db8::9;branch=z9hG4bKa7\n\
             From: <sip:p@h>;tag=f\nTo: <sip:w@h>;tag=t\nCall-ID: a-7\nCSeq: 7 OPTIONS\nContent-Length: 0\n\n",
        ),
        case(
            "tel: and a scheme nobody knows",
            "OPTIONS tel:+1-555;phone-context=h",
            ["a-8", "8 OPTIONS", "f", "t", "z9hG4bKa8", "nobodyknows:p"],
            0,
            Some(Field::Message),
            "OPTIONS tel:+1-555;phone-context=h SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKa8\nFrom: <tel:+1555>;tag=f\n\
             To: <isbn:2983792873>;tag=t\nCall-ID: a-8\nCSeq: 8 OPTIONS\nContact: <nobodyknows:p>\nContent-Length: 0\n\n",
        ),
        case(
            "an unknown method of odd characters",
            "!interesting-Method0123456789_*+`.%indeed'~ sip:w@h",
            ["a-9", "9 !interesting-Method0123456789_*+`.%indeed'~", "f", NONE, "z9hG4bKa9", NONE],
            0,
            Some(Field::Message),
            "!interesting-Method0123456789_*+`.%indeed'~ sip:w@h SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKa9\n\
             From: <sip:p@h>;tag=f\nTo: <sip:w@h>\nCall-ID: a-9\nCSeq: 9 !interesting-Method0123456789_*+`.%indeed'~\n\
             Content-Length: 0\n\n",
        ),
        case(
            "a Call-ID and tags of every character",
            "OPTIONS sip:%77@h",
            ["%Z%45@()<>:\\/\"[]?{}", "4294967295 OPTIONS", "-.!%*_+`'~0", "~", "z9hG4bK-.!%*_+`'~", NONE],
            0,
            None,
            "OPTIONS sip:%77@h SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bK-.!%*_+`'~\nFrom: <sip:p@h>;tag=-.!%*_+`'~0\n\
             To: <sip:w@h>;tag=~\nCall-ID: %Z%45@()<>:\\/\"[]?{}\nCSeq: 4294967295 OPTIONS\nContent-Length: 0\n\n",
        ),
        case(
            "headers in a contact URI, and an anonymous caller",
            "OPTIONS sip:w@h",
            ["a-11", "1 OPTIONS", "f", NONE, "z9hG4bKa11", "sip:p@h?Subject=a,b&Route=%3Csip:x%3Blr%3E"],
            0,
            Some(Field::Contact),
            "OPTIONS sip:w@h SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKa11\nFrom: Anonymous <sip:c8oqz84zk7z@privacy.test>;tag=f\n\
             To: <sip:w@h>\nCall-ID: a-11\nCSeq: 1 OPTIONS\nContact: <sip:p@h?Subject=a,b&Route=%3Csip:x%3Blr%3E>\n\
             Content-Length: 0\n\n",
        ),
        case(
            "sixty Vias and long values",
            "OPTIONS sip:w@h",
            ["a-12", "1 OPTIONS", "f", NONE, "z9hG4bKhop", NONE],
            0,
            None,
            &format!(
                "OPTIONS sip:w@h SIP/2.0\n{vias}From: \"{long}\" <sip:{long}@h>;tag=f\nTo: <sip:w@h>\nCall-ID: a-12\n\
                 CSeq: 1 OPTIONS\nX-{long}: {long}\nContent-Length: 0000000000000000000\n\n"
            ),
        ),
        case(
            "Contact: *",
            "REGISTER sip:h",
            ["a-13", "1 REGISTER", "f", NONE, "z9hG4bKa13", "*"],
            0,
            Some(Field::Contact),
            "REGISTER sip:h SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKa13\nFrom: <sip:p@h>;tag=f\nTo: <sip:p@h>\n\
             Call-ID: a-13\nCSeq: 1 REGISTER\nContact: *\nExpires: 0\nContent-Length: 0\n\n",
        ),
    ]
}

fn bodies() -> Vec<Case> {
    let head = "NOTIFY sip:w@h SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKb\nFrom: <sip:p@h>;tag=f\nTo: <sip:w@h>;tag=t\n\
                Call-ID: b\nCSeq: 1 NOTIFY\n";
    let fields = ["b", "1 NOTIFY", "f", "t", "z9hG4bKb", NONE];
    let mut binary = case("a binary body", "NOTIFY sip:w@h", fields, 9, None, &format!("{head}l: 9\n\n"));
    binary.raw.extend_from_slice(b"\0\xff\r\n\r\n\xc3\x28\n");
    let mut cut =
        case("more bytes than announced", "NOTIFY sip:w@h", fields, 2, None, &format!("{head}l: 2\n\n"));
    cut.raw.extend_from_slice(b"hiINVITE sip:x SIP/2.0\r\nVia: x\r\n\r\n");
    let mut rest = case("no length: all the rest", "NOTIFY sip:w@h", fields, 6, None, &format!("{head}\n"));
    rest.raw.extend_from_slice(b"a: b\r\n");
    let twice = case(
        "the same length twice",
        "NOTIFY sip:w@h",
        fields,
        3,
        None,
        &format!("{head}Content-Length: 3\nl: 003\n\n123"),
    );
    let unknown = case(
        "headers of no known kind that look like known ones",
        "NOTIFY sip:w@h",
        fields,
        0,
        None,
        &format!("{head}Via2: x;branch=no\nXCall-ID: no\nContent-Lengthy: 5\nq: no\nContent-Length: 0\n\n"),
    );
    vec![binary, cut, rest, twice, unknown]
}
