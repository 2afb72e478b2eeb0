//! Ends and errors: each reaches the other side as an end, after all that was said before it, and the first is named.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_goes_on_after_the_client_has_ended() {
    for kind in Kind::ALL {
        let rig = Rig::new();
        let (mut client, mut server, run) = rig.session(kind, Kind::Tcp).await;
        say(&mut client, b"a FETCH 1 BODY[]\r\n").await;
        client.shutdown().await.unwrap();
        hear(&mut server, b"a FETCH 1 BODY[]\r\n").await;
        hear_end(&mut server).await;
        let content = Content::new(4);
        let sent = send(&mut server, &content, 20 * MIB);
        let ((), received) = tokio::join!(sent, receive(&mut client, &content));
        assert_eq!(received, 20 * MIB, "{kind:?}");
        let ended = run.await.unwrap();
        assert!(matches!(ended.by, End::Client), "{kind:?}: {ended:?}");
        assert_eq!(ended.to_client, 20 * MIB as u64);
    }
}

#[tokio::test]
async fn a_server_that_closes_with_octets_under_way_is_read_to_the_end() {
    for (client, server) in [(Kind::Tcp, Kind::Tcp), (Kind::TlsServer, Kind::TlsClient)] {
        let rig = Rig::new();
        let plain = client.is_plain();
        let content = Content::new(6);
        let (mut client, mut server, taken, run) = stalled(&rig, client, server, &content).await;
        let under_way = rig.relay.shared.pipes.counts();
        assert_eq!(under_way, if plain { (1, 0) } else { (0, 0) });
        // What TLS has taken may still lie in it: this end must at least be able to send it.
        let (closed, received) = tokio::join!(server.shutdown(), receive(&mut client, &content));
        closed.unwrap();
        drop(server);
        assert_eq!(received, taken.octets);
        drop(client);
        assert!(matches!(run.await.unwrap().by, End::Server));
    }
}

#[tokio::test]
async fn tls_that_ends_without_close_notify_has_ended() {
    let rig = Rig::new();
    let (mut client, mut server, run) = rig.session(Kind::TlsServer, Kind::Unix).await;
    say(&mut server, b"* OK\r\n").await;
    // This reads the session tickets too: closing with unread octets would be RST, not FIN.
    hear(&mut client, b"* OK\r\n").await;
    say(&mut client, b"a LOGOUT\r\n").await;
    let Stream::TlsClient(tls) = client else {
        panic!("a TLS client was asked for");
    };
    // Only the socket is closed; rustls has no chance to say anything.
    drop(tls.into_inner().0);
    hear(&mut server, b"a LOGOUT\r\n").await;
    hear_end(&mut server).await;
    drop(server);
    let ended = run.await.unwrap();
    assert!(matches!(ended.by, End::Client), "{ended:?}");
}

/// A reader of TLS gets an error, not an end, when close_notify is missing: `hear_end` tells them apart.
#[tokio::test]
async fn the_end_reaches_a_tls_peer_as_close_notify() {
    for kind in [Kind::TlsClient, Kind::TlsServer] {
        let rig = Rig::new();
        let (mut client, server, run) = rig.session(kind, Kind::Tcp).await;
        drop(server);
        hear_end(&mut client).await;
        drop(client);
        assert!(matches!(run.await.unwrap().by, End::Server));
    }
}

// === errors ===

#[tokio::test]
async fn a_client_that_is_cut_off_is_to_blame() {
    let rig = Rig::new();
    let (mut client, mut server, run) = rig.session(Kind::Tcp, Kind::Tcp).await;
    say(&mut client, b"a IDLE\r\n").await;
    hear(&mut server, b"a IDLE\r\n").await;
    reset(client);
    hear_end(&mut server).await;
    drop(server);
    let ended = run.await.unwrap();
    assert!(matches!(&ended.by, End::ClientError(e) if e.kind() == io::ErrorKind::ConnectionReset));
    assert_eq!((ended.to_client, ended.to_server), (0, 8));
}

#[tokio::test]
async fn what_a_client_said_before_it_was_cut_off_reaches_the_server() {
    for server in [Kind::Tcp, Kind::TlsClient] {
        let rig = Rig::new();
        let (mut client, mut server, run) = rig.session(Kind::Tcp, server).await;
        let content = Content::new(9);
        Taken::default().until_stuck(&mut client, &content).await;
        reset(client);
        let heard = receive(&mut server, &content).await;
        drop(server);
        let ended = run.await.unwrap();
        assert!(matches!(ended.by, End::ClientError(_)), "{ended:?}");
        assert_eq!(heard as u64, ended.to_server);
        assert!(heard > 0);
    }
}

#[tokio::test]
async fn a_client_cut_off_in_the_middle_of_a_transfer_harms_nobody() {
    let rig = Rig::new();
    let content = Content::new(2);
    let (client, mut server, _, run) = stalled(&rig, Kind::Tcp, Kind::Tcp, &content).await;
    assert_eq!(rig.relay.shared.pipes.counts(), (1, 0));
    reset(client);
    hear_end(&mut server).await;
    drop(server);
    let ended = run.await.unwrap();
    assert!(matches!(ended.by, End::ClientError(_)), "{ended:?}");
    assert_eq!(rig.relay.shared.pipes.counts(), (0, 0));
    content::carries(Kind::Tcp, Kind::Tcp, MIB).await;
}

#[tokio::test]
async fn the_last_words_of_a_server_that_is_cut_off_reach_the_client() {
    let rig = Rig::new();
    let (mut client, mut server, run) = rig.session(Kind::Tcp, Kind::Tcp).await;
    say(&mut client, b"a NOOP\r\n").await;
    hear(&mut server, b"a").await;
    say(&mut server, b"* BYE\r\n").await;
    hear(&mut client, b"* BYE\r\n").await;
    // Closed with unread octets: the kernel sends RST by itself.
    drop(server);
    hear_end(&mut client).await;
    drop(client);
    let ended = run.await.unwrap();
    assert!(matches!(ended.by, End::ServerError(_)), "{ended:?}");
    assert_eq!((ended.to_client, ended.to_server), (7, 8));
}

/// One that speaks unasked was not asked; what is said later is not timed.
#[tokio::test]
async fn the_first_answer_of_a_server_is_timed_once() {
    let rig = Rig::new();
    let timed = || rig.relay.shared.first_answer.get_sample_count();
    for (server_begins, expected) in [(true, 0), (false, 1)] {
        let (mut client, mut server, _run) = rig.session(Kind::Tcp, Kind::Tcp).await;
        let mut octet = [0];
        if server_begins {
            server.write_all(b"*").await.unwrap();
            client.read_exact(&mut octet).await.unwrap();
        }
        for _ in 0..3 {
            client.write_all(b"?").await.unwrap();
            server.read_exact(&mut octet).await.unwrap();
            server.write_all(b"!").await.unwrap();
            client.read_exact(&mut octet).await.unwrap();
        }
        assert_eq!(timed(), expected);
    }
}
