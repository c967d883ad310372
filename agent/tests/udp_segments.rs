//! Several datagrams in one call: what arrives is what would have arrived one by one.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::time::Duration;

use adsum_agent::net::udp::UdpPort;

fn pair() -> (UdpSocket, UdpPort) {
    let pool = UdpSocket::bind("127.0.0.1:0").unwrap();
    pool.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let source = Some("127.0.0.1".parse().unwrap());
    let port = UdpPort::new(source, pool.local_addr().unwrap(), true, false).unwrap();
    (pool, port)
}

fn arrives(pool: &UdpSocket, from: &UdpPort, expected: &[u8]) {
    let mut buffer = vec![0; 65_536];
    let (len, source) = pool.recv_from(&mut buffer).unwrap();
    assert_eq!(source, from.local());
    assert!(buffer[..len] == *expected, "{len} bytes instead of {}", expected.len());
}

#[test]
fn datagrams_of_one_call_arrive_one_by_one() {
    let (pool, mut port) = pair();
    let texts = [vec![b'a'; 700], vec![b'b'; 700], vec![b'c'; 500]];
    let slices: Vec<IoSlice<'_>> = texts.iter().map(|text| IoSlice::new(text)).collect();
    port.send_segments(&slices).unwrap();
    texts.iter().for_each(|text| arrives(&pool, &port, text));
    // What comes behind them is not cut into pieces of 700, whichever way it is sent.
    let longer = vec![b'd'; 1_200];
    port.send_segments(&[IoSlice::new(&longer)]).unwrap();
    arrives(&pool, &port, &longer);
    port.send_segments(&slices[..2]).unwrap();
    texts[..2].iter().for_each(|text| arrives(&pool, &port, text));
    port.send(&longer).unwrap();
    arrives(&pool, &port, &longer);
    port.send_segments(&slices[1..]).unwrap();
    texts[1..].iter().for_each(|text| arrives(&pool, &port, text));
    port.send_to(&longer, port.target()).unwrap();
    arrives(&pool, &port, &longer);
    assert!(port.takes_segments());
}

#[test]
fn what_the_kernel_refuses_as_a_whole_goes_one_by_one() {
    let (pool, mut port) = pair();
    // Together they are longer than an IP packet.
    let texts = [vec![b'a'; 40_000], vec![b'b'; 40_000]];
    let slices: Vec<IoSlice<'_>> = texts.iter().map(|text| IoSlice::new(text)).collect();
    port.send_segments(&slices).unwrap_err();
    assert!(!port.takes_segments());
    for text in &texts {
        port.send_segments(&[IoSlice::new(text)]).unwrap();
        arrives(&pool, &port, text);
    }
}
