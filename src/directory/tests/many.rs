//! Accounts by the hundred thousand in two slapds, and a stream of logins of random ones while the preferred server is killed,
//! comes back, falls silent and speaks again: none fails. With `PIGEONAIR_FULL`; without it the same with two hundred.
//!
//! Times are printed and not judged. Nothing is kept in the cache, so every login is a search and a bind.

use std::fmt::Write as _;

use super::{
    servers::{at, is_up, until_up},
    *,
};

/// Logins at a time.
const WIDTH: usize = 16;

struct Size {
    accounts: usize,
    /// In each phase.
    logins: usize,
}

fn size() -> Size {
    if std::env::var_os("PIGEONAIR_FULL").is_some() {
        Size {
            accounts: 100_000,
            logins: 20_000,
        }
    } else {
        Size {
            accounts: 200,
            logins: 200,
        }
    }
}

/// Both with the same accounts.
fn two_with(accounts: usize) -> [Slapd; 2] {
    let mut entries = String::new();
    for number in 0..accounts {
        write!(
            entries,
            "dn: {}\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\nsn: x\nuid: user{number}\n\
             mail: user{number}@example.org\nuidNumber: {number}\ngidNumber: 1\nhomeDirectory: homes/{number}\n\
             userPassword: password {number}\n\n",
            dn(&format!("user {number}"))
        )
        .unwrap();
    }
    let (mut first, mut second) = (Slapd::prepare_with("", &entries), Slapd::prepare());
    second.copy(&first);
    first.start();
    second.start();
    [first, second]
}

/// Lets so many log in, and says how long that took each of them, shortest first; and who failed.
async fn log_all_in(directory: &Directory, size: &Size) -> (Vec<Duration>, Vec<String>) {
    let tasks = Tasks::new();
    let all = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    for _ in 0..WIDTH {
        let (directory, all) = (directory.clone(), Arc::clone(&all));
        let (accounts, logins) = (size.accounts, size.logins / WIDTH);
        tasks.spawn("logins", async move {
            for turn in 0..logins {
                let number = getrandom::u32().unwrap() as usize % accounts;
                // By name and by address; one of twenty with a wrong password, one who is unknown.
                let (login, password, expected) = match turn % 20 {
                    0 => (
                        format!("user{number}"),
                        "x".to_owned(),
                        "wrong password".to_owned(),
                    ),
                    1 => (
                        format!("nobody{number}"),
                        "x".to_owned(),
                        "unknown user".to_owned(),
                    ),
                    turn => {
                        let domain = if turn % 2 == 0 { "" } else { "@example.org" };
                        (
                            format!("user{number}{domain}"),
                            format!("password {number}"),
                            format!("ok user{number}"),
                        )
                    }
                };
                let began = Instant::now();
                let answer = log_in(&directory, &login, &password).await;
                let took = began.elapsed();
                let mut all = all.lock().unwrap();
                all.0.push(took);
                if answer != expected {
                    all.1.push(format!("{login}: {answer}"));
                }
            }
        });
    }
    assert_eq!(tasks.drain(PATIENCE * 30).await, 0);
    let (mut took, failed) = std::mem::take(&mut *all.lock().unwrap());
    took.sort();
    (took, failed)
}

#[tokio::test]
async fn any_of_many_logs_in_whatever_happens_to_one_server() {
    let size = size();
    let began = Instant::now();
    let [mut first, second] = two_with(size.accounts);
    println!(
        "{} accounts: loaded in {:?}",
        size.accounts,
        began.elapsed()
    );
    let uris = [first.uri(), second.uri()];
    let (directory, metrics) = start_counted(at(&uris, |ldap| {
        ldap.timeout = Duration::from_secs(5);
    }));
    for phase in ["first", "before", "killed", "back", "frozen", "thawed"] {
        match phase {
            "back" => first.start(),
            "thawed" => first.thaw(),
            _ => {}
        }
        if ["back", "thawed"].contains(&phase) {
            until_up(&metrics, &uris[0], true).await;
        }
        let logins = log_all_in(&directory, &size);
        let disturb = async {
            if !["killed", "frozen"].contains(&phase) {
                return;
            }
            // In the middle of it.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if phase == "killed" {
                first.kill();
            } else {
                first.freeze();
            }
        };
        let began = Instant::now();
        let ((took, failed), ()) = tokio::join!(logins, disturb);
        let per_second = took.len() as f64 / began.elapsed().as_secs_f64();
        let part = |part: usize| took[took.len() * part / 1000];
        println!(
            "{phase}: {} logins, {per_second:.0} a second, half within {:?}, 99 % {:?}, 99.9 % {:?}, all {:?}, {} failed",
            took.len(),
            part(500),
            part(990),
            part(999),
            took[took.len() - 1],
            failed.len()
        );
        assert_eq!(failed, Vec::<String>::new(), "{phase}");
        assert_eq!(
            is_up(&metrics, &uris[0]),
            !["killed", "frozen"].contains(&phase)
        );
    }
}
