//! Chunks and pace by chance, over every pair of kinds, both directions at once.
//!
//! The numbers come from a seed that is new in each run; `PIGEONAIR_TEST_SEED` repeats one, and a test that fails has
//! printed it. Slow means that others have their turn in between: nothing here waits for a clock.

use super::*;

/// What a side does.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    sends: usize,
    /// In one write.
    most_sent: usize,
    /// In one read.
    most_read: usize,
    /// How many turns others have after a write and after a read, at most.
    pauses: [usize; 2],
    /// It ends only when it has heard the other's end.
    is_last: bool,
    /// It takes only so much and then closes, whatever is under way.
    leaves_after: Option<usize>,
}

/// A session.
#[derive(Clone, Copy, Debug)]
struct Case {
    client: Plan,
    server: Plan,
    pipes: usize,
    narrow: [bool; 2],
}

impl Case {
    fn by_chance(dice: &mut Dice) -> Self {
        let mut plan = || Plan {
            seed: dice.roll(),
            sends: if dice.below(8) == 0 {
                0
            } else {
                dice.size(2 * MIB)
            },
            most_sent: 128 + dice.size(256 * KIB),
            most_read: 128 + dice.size(256 * KIB),
            pauses: [0; 2].map(|_| if dice.below(2) == 0 { 0 } else { dice.size(64) }),
            is_last: false,
            leaves_after: None,
        };
        let (mut client, mut server) = (plan(), plan());
        match dice.below(3) {
            0 => client.is_last = true,
            1 => server.is_last = true,
            _ => {}
        }
        Self {
            client,
            server,
            pipes: [0, 1, pipes::LIMIT][dice.below(3)],
            narrow: [0; 2].map(|_| dice.below(2) == 0),
        }
    }
}

impl Plan {
    /// Plays it: how much was heard of the other side. Then the stream is closed.
    async fn play(self, stream: Stream, other: Self) -> usize {
        let (mut reading, mut writing) = tokio::io::split(stream);
        let end = tokio::sync::Notify::new();
        let write = async {
            let (content, mut dice) = (Content::new(self.seed), Dice(self.seed));
            // Not too many of them, or it takes for ever.
            let most = self.most_sent.max(self.sends / 256);
            let mut sent = 0;
            while sent < self.sends {
                let length = dice.size(most).min(self.sends - sent);
                let chunk = content.octets(sent, length);
                writing.write_all(&chunk).await.unwrap();
                sent += length;
                pause(&mut dice, self.pauses[0]).await;
            }
            writing.flush().await.unwrap();
            if self.is_last {
                end.notified().await;
            }
            if self.leaves_after.is_none() {
                writing.shutdown().await.unwrap();
            }
        };
        let read = async {
            let (content, mut dice) = (Content::new(other.seed), Dice(!self.seed));
            let most = self.most_read.max(other.sends / 256);
            let mut buffer = vec![0; most];
            let mut heard = 0;
            while self.leaves_after != Some(heard) {
                let room = self.leaves_after.map_or(usize::MAX, |after| after - heard);
                let room = dice.size(most).min(room);
                let length = reading.read(&mut buffer[..room]).await.unwrap();
                if length == 0 {
                    break;
                }
                content.check(heard, &buffer[..length]);
                heard += length;
                pause(&mut dice, self.pauses[1]).await;
            }
            end.notify_one();
            heard
        };
        tokio::join!(write, read).1
    }
}

impl Case {
    /// Plays it: what the client and the server heard, and how the session ended.
    async fn play(self, client: Kind, server: Kind) -> (usize, usize, Ended) {
        println!("{client:?}, {server:?}: {self:?}");
        let rig = Rig::with(Settings::default(), self.pipes);
        let (client, ours) = end(client, self.narrow[0]).await;
        let (server, theirs) = end(server, self.narrow[1]).await;
        let run = start(rig.relay.run(ours, theirs, rig.tasks.cut_requested()));
        let (by_client, by_server) = tokio::join!(
            self.client.play(client, self.server),
            self.server.play(server, self.client),
        );
        let ended = run.await.unwrap();
        let (made, free) = rig.relay.shared.pipes.counts();
        assert_eq!(made, free, "a pipe is not given back");
        (by_client, by_server, ended)
    }
}

async fn end(kind: Kind, is_narrow: bool) -> (Stream, Stream) {
    if is_narrow {
        tight(kind).await
    } else {
        connection(kind).await
    }
}

/// Lets others have their turn, now and then.
async fn pause(dice: &mut Dice, most: usize) {
    if most > 0 && dice.below(4) == 0 {
        for _ in 0..dice.below(most) {
            tokio::task::yield_now().await;
        }
    }
}

fn dice() -> Dice {
    let mut octets = [0; 8];
    getrandom::fill(&mut octets).unwrap();
    let seed = std::env::var("PIGEONAIR_TEST_SEED")
        .map_or_else(|_| u64::from_le_bytes(octets), |text| text.parse().unwrap());
    println!("PIGEONAIR_TEST_SEED={seed} repeats this");
    Dice(seed)
}

#[tokio::test]
async fn any_chunks_at_any_pace_arrive_in_both_directions() {
    let mut dice = dice();
    for client in Kind::ALL {
        for server in Kind::ALL {
            for _ in 0..3 {
                let case = Case::by_chance(&mut dice);
                let (by_client, by_server, ended) = case.play(client, server).await;
                assert_eq!(
                    (by_client, by_server),
                    (case.server.sends, case.client.sends)
                );
                let moved = (ended.to_client, ended.to_server);
                assert_eq!(moved, (by_client as u64, by_server as u64));
                // Who ends last has not ended first.
                match ended.by {
                    End::Client => assert!(!case.client.is_last),
                    End::Server => assert!(!case.server.is_last),
                    by => panic!("nothing was broken, but {by:?}"),
                }
            }
        }
    }
}

/// Whoever closes with octets under way loses them, but what it had sent itself is not made up, and the other side is
/// heard to its end.
#[tokio::test]
async fn a_side_that_leaves_early_harms_itself_alone() {
    let mut dice = dice();
    for client in Kind::ALL {
        for server in Kind::ALL {
            for leaver in [End::Client, End::Server] {
                let mut case = Case::by_chance(&mut dice);
                let (leaving, staying) = match leaver {
                    End::Client => (&mut case.client, &case.server),
                    _ => (&mut case.server, &case.client),
                };
                leaving.leaves_after = Some(dice.below(staying.sends + 1));
                leaving.is_last = false;
                let (by_client, by_server, ended) = case.play(client, server).await;
                match leaver {
                    End::Client => assert_eq!(by_server as u64, ended.to_server),
                    _ => assert_eq!(by_client as u64, ended.to_client),
                }
            }
        }
    }
}
