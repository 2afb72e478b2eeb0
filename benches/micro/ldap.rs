//! An LDAP server with one entry, which anybody may bind as: enough for a directory to have something to keep.
//!
//! It reads only what it must of a request (RFC 4511, in BER): its id and its kind.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

/// The attributes of the entry, by the names that are a directory's defaults.
const ATTRIBUTES: [(&str, &str); 6] = [
    ("uid", "ann"),
    ("mailHost", "node-1"),
    ("uidNumber", "5000"),
    ("gidNumber", "5000"),
    ("homeDirectory", "/m/ann"),
    ("accountStatus", "active"),
];

// Tags of requests and answers (RFC 4511, 4.2 and 4.5).
const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const SEARCH_REQUEST: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
// Of BER.
const STRING: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// Starts it: its URI. It ends with the process.
pub(crate) fn start() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            // Whoever asks may leave at any time.
            thread::spawn(move || while serve(&mut connection).is_ok() {});
        }
    });
    format!("ldap://{address}")
}

/// One request.
fn serve(connection: &mut TcpStream) -> io::Result<()> {
    let message = read(connection)?;
    let (id, request) = message.split_at(2 + usize::from(message[1]));
    let mut answers = Vec::new();
    match request.first() {
        Some(&BIND_REQUEST) => answers.extend(answer(id, element(BIND_RESPONSE, &success()))),
        Some(&SEARCH_REQUEST) => {
            answers.extend(answer(id, entry()));
            answers.extend(answer(id, element(SEARCH_DONE, &success())));
        }
        _ => return Err(io::ErrorKind::Unsupported.into()),
    }
    connection.write_all(&answers)
}

/// The inside of one element.
fn read(connection: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = [0; 2];
    connection.read_exact(&mut head)?;
    let mut length = usize::from(head[1]);
    if length > 127 {
        let mut octets = vec![0; length - 128];
        connection.read_exact(&mut octets)?;
        length = octets
            .iter()
            .fold(0, |length, octet| length << 8 | usize::from(*octet));
    }
    let mut inside = vec![0; length];
    connection.read_exact(&mut inside)?;
    Ok(inside)
}

fn answer(id: &[u8], protocol: Vec<u8>) -> Vec<u8> {
    element(SEQUENCE, &[id.to_vec(), protocol].concat())
}

fn entry() -> Vec<u8> {
    let attributes: Vec<u8> = ATTRIBUTES
        .iter()
        .flat_map(|(name, value)| {
            let value = element(STRING, value.as_bytes());
            let inside = [element(STRING, name.as_bytes()), element(SET, &value)].concat();
            element(SEQUENCE, &inside)
        })
        .collect();
    let inside = [element(STRING, b"uid=ann"), element(SEQUENCE, &attributes)].concat();
    element(SEARCH_ENTRY, &inside)
}

/// Result code 0, no DN, no words.
fn success() -> Vec<u8> {
    let code = element(ENUMERATED, &[0]);
    [code, element(STRING, b""), element(STRING, b"")].concat()
}

/// With its length in two octets, which BER allows for any.
fn element(tag: u8, inside: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(inside.len()).unwrap().to_be_bytes();
    [&[tag, 0x82, high, low], inside].concat()
}
