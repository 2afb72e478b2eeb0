//! Limits: of silence, of a drain, of what a session is and of what it may take from others.

use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Wake},
};

use super::*;

const IDLE: Duration = Duration::from_secs(35 * 60);
const HALF: Duration = Duration::from_secs(60);
const TICKS: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn a_silent_session_is_closed_and_a_talking_one_is_not() {
    let rig = Rig::new();
    let (mut quiet, _server, quiet_run) = rig.session(Kind::Unix, Kind::Unix).await;
    let (mut client, mut server, run) = rig.session(Kind::Unix, Kind::Unix).await;
    let begin = Instant::now();
    // Ten times in either direction alone, each within the limit. (Paused time: it runs from tick to tick.)
    for _ in 0..10 {
        tokio::time::sleep(IDLE / 2).await;
        say(&mut server, b"* 1 EXISTS\r\n").await;
        hear(&mut client, b"* 1 EXISTS\r\n").await;
    }
    for _ in 0..10 {
        tokio::time::sleep(IDLE / 2).await;
        say(&mut client, b"DONE\r\n").await;
        hear(&mut server, b"DONE\r\n").await;
    }
    assert!(!run.is_finished());
    assert!(quiet_run.is_finished());
    assert!(matches!(quiet_run.await.unwrap().by, End::Idle));
    hear_end(&mut quiet).await;

    let last = Instant::now();
    assert!(matches!(run.await.unwrap().by, End::Idle));
    assert!(last.elapsed() >= IDLE && last.elapsed() <= IDLE + TICKS);
    assert!(begin.elapsed() > 10 * IDLE);
    hear_end(&mut client).await;
    hear_end(&mut server).await;
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_session_is_closed_sooner() {
    let rig = Rig::new();
    let (mut client, mut server, run) = rig.session(Kind::Unix, Kind::Unix).await;
    client.shutdown().await.unwrap();
    hear_end(&mut server).await;
    for _ in 0..5 {
        tokio::time::sleep(HALF / 2).await;
        say(&mut server, b"* still here\r\n").await;
        hear(&mut client, b"* still here\r\n").await;
    }
    let last = Instant::now();
    assert!(matches!(run.await.unwrap().by, End::HalfClosedIdle));
    assert!(last.elapsed() >= HALF && last.elapsed() <= HALF + TICKS);
    hear_end(&mut client).await;
}

/// What is sent to a side that is gone is no sign of life.
#[tokio::test(start_paused = true)]
async fn a_server_that_talks_to_nobody_is_closed() {
    let rig = Rig::new();
    let (client, mut server, run) = rig.session(Kind::Tcp, Kind::Unix).await;
    reset(client);
    hear_end(&mut server).await;
    let begin = Instant::now();
    while server.write_all(b"* 1 EXISTS\r\n").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(begin.elapsed() <= HALF + TICKS);
    }
    assert!(matches!(run.await.unwrap().by, End::ClientError(_)));
    assert!(begin.elapsed() >= HALF);
}

#[tokio::test]
async fn a_fast_sweep_closes_in_real_time() {
    let settings = Settings {
        idle: Duration::from_millis(60),
        half_closed_idle: Duration::from_millis(30),
    };
    let rig = Rig::with(settings, 1);
    let (mut client, _server, run) = rig.session(Kind::TlsServer, Kind::Tcp).await;
    hear_end(&mut client).await;
    assert!(matches!(run.await.unwrap().by, End::Idle));
}

// === being stopped ===

#[tokio::test(start_paused = true)]
async fn a_session_that_a_drain_cuts_still_tells_its_counts() {
    let rig = Rig::new();
    let (mut client, ours) = connection(Kind::TlsServer).await;
    let (mut server, theirs) = connection(Kind::Unix).await;
    let run = rig.relay.run(ours, theirs, rig.tasks.cut_requested());
    let (outcome, told) = tokio::sync::oneshot::channel();
    rig.tasks.spawn("session", async move {
        outcome.send(run.await).unwrap();
    });
    say(&mut client, b"a NOOP\r\n").await;
    hear(&mut server, b"a NOOP\r\n").await;
    assert_eq!(rig.tasks.drain(Duration::from_secs(5)).await, 1);
    let ended = told.await.unwrap();
    assert!(matches!(ended.by, End::Stopped));
    assert_eq!((ended.to_client, ended.to_server), (0, 8));
    hear_end(&mut client).await;
    hear_end(&mut server).await;
}

#[tokio::test(start_paused = true)]
async fn the_sweep_does_not_hold_back_a_drain() {
    let rig = Rig::new();
    let (client, server, run) = rig.session(Kind::Unix, Kind::Unix).await;
    drop((client, server));
    run.await.unwrap();
    let begin = Instant::now();
    assert_eq!(rig.tasks.drain(Duration::from_secs(60)).await, 0);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_session_is_a_small_future() {
    let rig = Rig::new();
    let (_client, ours) = connection(Kind::Unix).await;
    let (_server, theirs) = connection(Kind::Unix).await;
    let run = rig.relay.run(ours, theirs, rig.tasks.cut_requested());
    let size = size_of_val(&run);
    assert!(size <= 640, "{size} octets");
}

// === one session among others ===

/// What is there to be moved is moved in bursts, and after each the session asks for another turn instead of going on.
#[tokio::test]
async fn a_large_transfer_gives_way_after_a_burst() {
    for (client, server, pipes, held) in [
        (Kind::Tcp, Kind::Tcp, pipes::LIMIT, MIB),
        (Kind::Tcp, Kind::Tcp, 0, 64 * KIB),
        (Kind::TlsServer, Kind::Tcp, 0, 64 * KIB),
        (Kind::Tcp, Kind::TlsClient, 0, 64 * KIB),
        (Kind::TlsServer, Kind::TlsClient, 0, 64 * KIB),
    ] {
        let most = 512 * KIB + held;
        // The kernel fills the relay's socket again while it is being read, mostly: when it was late, nothing is shown.
        let mut shown = false;
        for _ in 0..50 {
            let bursts = bursts(client, server, pipes).await;
            let is_in_bursts = bursts.iter().all(|burst| *burst <= most);
            assert!(is_in_bursts, "{client:?}, {server:?}: {bursts:?}");
            shown = bursts.iter().sum::<usize>() > most;
            if shown {
                break;
            }
        }
        assert!(
            shown,
            "{client:?}, {server:?}: never was there more to be moved"
        );
    }
}

/// How much is moved in each turn, until there is nothing left or no room, by a session whose client does not read.
async fn bursts(client: Kind, server: Kind, pipes: usize) -> Vec<usize> {
    let rig = Rig::with(Settings::default(), pipes);
    let moved = || usize::try_from(rig.octets("copy") + rig.octets("splice")).unwrap();
    let (_client, ours) = connection(client).await;
    let (mut server, theirs) = connection(server).await;
    if pipes == 0 {
        // As much as Linux gives anybody by default. With what it gives unasked, a copying reader runs dry too early.
        socket(&theirs).set_recv_buffer_size(208 * KIB).unwrap();
    }
    Taken::default()
        .until_stuck(&mut server, &Content::new(1))
        .await;
    // Otherwise the first turn would only ask.
    below(&ours).writable().await.unwrap();
    below(&theirs).readable().await.unwrap();

    let wakes = Arc::new(Wakes::default());
    let waker = Arc::clone(&wakes).into();
    let mut cx = Context::from_waker(&waker);
    // Tokio has a bound of its own, by calls, which is not what is looked at here.
    let run = rig.relay.run(ours, theirs, std::future::pending());
    let mut run = pin!(tokio::task::unconstrained(run));
    let mut bursts = Vec::new();
    loop {
        let (before, asked) = (moved(), wakes.0.load(Relaxed));
        assert!(run.as_mut().poll(&mut cx).is_pending());
        bursts.push(moved() - before);
        // It may ask to be called at once, or when others have had their turn.
        tokio::task::yield_now().await;
        if wakes.0.load(Relaxed) == asked {
            return bursts;
        }
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn below(stream: &Stream) -> &TcpStream {
    match stream {
        Stream::Tcp(stream) => stream,
        Stream::TlsClient(stream) => stream.get_ref().0,
        Stream::TlsServer(stream) => stream.get_ref().0,
        Stream::Unix(_) => panic!("it is no TCP"),
    }
}

/// The peers of the transfers have threads of their own, so that there is always something to be moved.
#[tokio::test]
async fn large_transfers_leave_others_their_turns() {
    let (large, small) = (Rig::new(), Rig::new());
    let (mut transfers, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let (client, server, transfer) = large.session(Kind::Tcp, Kind::Tcp).await;
        transfers.push(transfer);
        peers.push(std::thread::spawn(move || {
            let mut sink = blocking(client);
            while matches!(sink.read(&mut [0; 64 * KIB]), Ok(1..)) {}
        }));
        peers.push(std::thread::spawn(move || {
            let mut source = blocking(server);
            while source.write_all(&[1; 64 * KIB]).is_ok() {}
        }));
    }
    let moved = || large.octets("copy") + large.octets("splice");
    let (mut client, mut server, talk) = small.session(Kind::Unix, Kind::Unix).await;
    for _ in 0..50 {
        let before = moved();
        say(&mut client, b"a NOOP\r\n").await;
        hear(&mut server, b"a NOOP\r\n").await;
        say(&mut server, b"a OK\r\n").await;
        hear(&mut client, b"a OK\r\n").await;
        // Four times somebody waits to be woken, which may come after two bursts of each transfer; 1.5 MiB a burst.
        let moved = moved() - before;
        assert!(
            moved <= 48 * MIB as u64,
            "{moved} octets for one round trip"
        );
    }
    for transfer in transfers {
        transfer.abort();
    }
    drop((client, server));
    talk.await.unwrap();
    for peer in peers {
        peer.join().unwrap();
    }
}

fn blocking(stream: Stream) -> std::net::TcpStream {
    let Stream::Tcp(stream) = stream else {
        panic!("it is no TCP");
    };
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}
