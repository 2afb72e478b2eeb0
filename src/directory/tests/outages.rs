//! Servers that are slow or die, one after the other, under a stream of logins: whoever asks is answered, as long as one of them
//! answers.

use std::sync::atomic::AtomicUsize;

use super::{
    servers::{at, is_up, pair, searched, slow, until_up},
    *,
};

/// Logins that go on until they are stopped, and how each of them ended.
pub(super) struct Stream {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
}

impl Stream {
    /// So many at a time, right, wrong and unknown ones in turn.
    pub(super) fn start(directory: &Directory, width: usize) -> Self {
        let stream = Self {
            stop: Arc::default(),
            served: Arc::default(),
            failed: Arc::default(),
            tasks: Tasks::new(),
        };
        for number in 0..width {
            let (directory, stop) = (directory.clone(), Arc::clone(&stream.stop));
            let (served, failed) = (Arc::clone(&stream.served), Arc::clone(&stream.failed));
            stream.tasks.spawn("logins", async move {
                let cases = [
                    ("ann", "secret", "ok Ann"),
                    ("ann", "wrong", "wrong password"),
                    ("nobody", "secret", "unknown user"),
                ];
                for (login, password, expected) in cases.into_iter().cycle().skip(number) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let answer = log_in(&directory, login, password).await;
                    if answer != expected {
                        failed.lock().unwrap().push(format!("{login}: {answer}"));
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        stream
    }

    /// Waits until so many more have ended.
    pub(super) async fn more(&self, count: usize) {
        let enough = self.served.load(Ordering::Relaxed) + count;
        let patience = Instant::now() + PATIENCE;
        while self.served.load(Ordering::Relaxed) < enough {
            assert!(Instant::now() < patience, "logins stopped");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends it, if none has failed.
    pub(super) async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert_eq!(self.tasks.drain(PATIENCE).await, 0);
        assert_eq!(*self.failed.lock().unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_one_answers_late_the_other_answers() {
    const HEDGE: Duration = Duration::from_millis(100);
    const LATE: usize = 2000;
    let [first, second] = pair();
    let late = Arc::new(AtomicUsize::new(0));
    let uris = [slow(first.uri(), Arc::clone(&late)).await, second.uri()];
    let (directory, metrics) = start_counted(at(&uris, |ldap| {
        ldap.hedge_after = HEDGE;
    }));
    let stream = Stream::start(&directory, 8);
    stream.more(30).await;
    late.store(LATE, Ordering::Relaxed);
    let (began, before) = (Instant::now(), searched(&metrics, &uris[1]));
    // As soon as it is taken for away, the other is asked at once.
    until_up(&metrics, &uris[0], false).await;
    stream.more(100).await;
    assert!(
        began.elapsed() < Duration::from_millis(LATE as u64),
        "{:?}",
        began.elapsed()
    );
    assert!(searched(&metrics, &uris[1]) > before);
    stream.end().await;
    // Late answers are answers, so it is asked again before it is well, now and then: none is lost by that.
    late.store(300, Ordering::Relaxed);
    let stream = Stream::start(&directory, 8);
    until_up(&metrics, &uris[0], true).await;
    stream.more(100).await;
    late.store(0, Ordering::Relaxed);
    until_up(&metrics, &uris[0], true).await;
    let (before, patience) = (searched(&metrics, &uris[0]), Instant::now() + PATIENCE);
    while searched(&metrics, &uris[0]) == before {
        assert!(Instant::now() < patience, "it is never asked again");
        stream.more(1).await;
    }
    stream.end().await;
}

#[tokio::test]
async fn three_die_in_turn() {
    let mut servers = [Slapd::new(), Slapd::new(), Slapd::new()];
    let uris = servers.each_ref().map(Slapd::uri);
    let (directory, metrics) = start_counted(at(&uris, |_| {}));
    let stream = Stream::start(&directory, 8);
    // At most two are away at a time: the first of them comes back before the third goes.
    let mut away = None;
    for dying in [0, 1, 2, 0] {
        stream.more(40).await;
        servers[dying].kill();
        stream.more(40).await;
        if let Some(back) = away.replace(dying) {
            servers[back].start();
            until_up(&metrics, &uris[back], true).await;
        }
    }
    stream.more(40).await;
    assert!(!is_up(&metrics, &uris[0]));
    stream.end().await;
    for result in ["ambiguous", "entry", "unavailable"] {
        let failed = metrics.directory_lookups.with_label_values(&[result]);
        assert_eq!(failed.get(), 0, "{result}");
    }
}

/// A bind is waited for longer than a search, but not for one of whom a search has shown that it is silent.
#[tokio::test]
async fn what_a_search_has_found_out_a_bind_need_not() {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let [first, second] = pair();
    let uris = [first.uri(), second.uri()];
    let (directory, metrics) = start_counted(cached(at(&uris, |ldap| {
        ldap.timeout = TIMEOUT;
        ldap.hedge_after = Duration::from_millis(100);
    })));
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    until_up(&metrics, &uris[0], true).await;
    first.freeze();
    let began = Instant::now();
    // Who she is, is known; he is looked for.
    let (ann, bob) = tokio::join!(
        log_in(&directory, "ann", "wrong"),
        log_in(&directory, "bob", "crypted")
    );
    assert_eq!((ann.as_str(), bob.as_str()), ("wrong password", "ok bob"));
    let took = began.elapsed();
    assert!(took < TIMEOUT / 2, "{took:?}");
}
