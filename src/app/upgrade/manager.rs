//! A word to the service manager: which process is the main one of the unit now (`sd_notify(3)`).
//!
//! The manager must take it from others than the main process (`NotifyAccess=all`). On failure: a warning; the old
//! process then stays the main one for the manager, which takes its end for the service's.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Where the manager listens.
const PLACE: &str = "NOTIFY_SOCKET";

/// Says that this process is the main one, and ready, if there is anybody to say it to.
pub(super) fn tell() {
    let Some(place) = std::env::var_os(PLACE) else {
        return;
    };
    let state = format!("MAINPID={}\nREADY=1", std::process::id());
    if let Err(error) = send(&place, &state) {
        tracing::warn!(%error, "cannot tell the service manager which process is the main one");
    }
}

fn send(place: &OsStr, state: &str) -> io::Result<()> {
    let address = match place.as_bytes() {
        // No octet of a file system.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(place)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("pigeonair-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, place) in [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&abstract_address).unwrap(),
                format!("@{name}").into(),
            ),
        ] {
            send(&place, "MAINPID=1\nREADY=1").unwrap();
            let mut octets = [0; 64];
            let length = socket.recv(&mut octets).unwrap();
            assert_eq!(&octets[..length], b"MAINPID=1\nREADY=1");
        }
    }
}
