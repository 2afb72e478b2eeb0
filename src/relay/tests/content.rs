//! What is sent arrives, unchanged and in order, over every pair of kinds.

use super::*;

/// Both directions at once through one pair of kinds.
pub(super) async fn carries(client: Kind, server: Kind, total: usize) {
    let rig = Rig::new();
    let (client_end, server_end, run) = rig.session(client, server).await;
    let (mut from_client, mut to_client) = tokio::io::split(client_end);
    let (mut from_server, mut to_server) = tokio::io::split(server_end);
    let (questions, answers) = (Content::new(7), Content::new(8));
    let ((), (), asked, answered) = tokio::join!(
        send(&mut to_client, &questions, total),
        send(&mut to_server, &answers, total),
        receive(&mut from_server, &questions),
        receive(&mut from_client, &answers),
    );
    assert_eq!(asked, total, "{client:?} to {server:?}");
    assert_eq!(answered, total, "{server:?} to {client:?}");
    let ended = run.await.unwrap();
    assert_eq!(ended.to_client, total as u64);
    assert_eq!(ended.to_server, total as u64);
    assert!(matches!(ended.by, End::Client | End::Server), "{ended:?}");
    let (copied, spliced) = (rig.octets("copy"), rig.octets("splice"));
    assert_eq!(copied + spliced, 2 * total as u64);
    let plain = client.is_plain() && server.is_plain();
    assert_eq!(spliced > 0, plain, "{client:?}, {server:?}: {spliced}");
    let (made, free) = rig.relay.shared.pipes.counts();
    assert_eq!(made, free, "every pipe is given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_of_kinds_carries_both_directions() {
    for client in Kind::ALL {
        for server in Kind::ALL {
            carries(client, server, 3 * MIB).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transfer_arrives_whole() {
    carries(Kind::Tcp, Kind::Tcp, 64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_pipes_everything_is_copied() {
    let rig = Rig::with(Settings::default(), 0);
    let (mut client, mut server, run) = rig.session(Kind::Tcp, Kind::Unix).await;
    let content = Content::new(3);
    let sent = send(&mut server, &content, 8 * MIB);
    let ((), received) = tokio::join!(sent, receive(&mut client, &content));
    assert_eq!(received, 8 * MIB);
    client.shutdown().await.unwrap();
    assert!(matches!(run.await.unwrap().by, End::Server));
    assert_eq!(rig.octets("splice"), 0);
    assert_eq!(rig.octets("copy"), 8 * MIB as u64);
}

/// rustls may have decrypted more than was read from it; no socket will ever become readable for that.
#[tokio::test]
async fn what_tls_had_decrypted_before_is_not_forgotten() {
    for kind in [Kind::TlsServer, Kind::TlsClient] {
        let rig = Rig::new();
        let (mut client, mut ours) = connection(kind).await;
        let (mut server, theirs) = connection(Kind::Tcp).await;
        say(&mut client, b"a1 NOOP\r\na2 NOOP\r\n").await;
        hear(&mut ours, b"a1 NOOP\r\n").await;
        let run = start(rig.relay.run(ours, theirs, std::future::pending()));
        hear(&mut server, b"a2 NOOP\r\n").await;
        drop((client, server));
        run.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_talk_at_once() {
    let rig = Rig::new();
    let mut talks = JoinSet::new();
    let mut runs = Vec::new();
    for i in 0..500_u32 {
        let server = if i % 2 == 0 { Kind::Tcp } else { Kind::Unix };
        let (mut client, mut server, run) = rig.session(Kind::Unix, server).await;
        runs.push(run);
        talks.spawn(async move {
            for round in 0..20_u32 {
                let words = (i * 1000 + round).to_be_bytes();
                say(&mut client, &words).await;
                hear(&mut server, &words).await;
                say(&mut server, &words).await;
                hear(&mut client, &words).await;
            }
        });
    }
    while let Some(talk) = talks.join_next().await {
        talk.unwrap();
    }
    for run in runs {
        let ended = run.await.unwrap();
        assert_eq!((ended.to_client, ended.to_server), (80, 80));
    }
    assert_eq!(rig.octets("splice"), 0, "small talk needs no pipe");
}
