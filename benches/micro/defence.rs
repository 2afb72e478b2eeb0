//! What a login and a connection cost for being counted: the account known where it logs in, and not; with ten thousand others
//! in the tables.

use std::{hint::black_box, net::Ipv4Addr};

use pigeonair::{
    defence::{Defence, Settings},
    metrics::Metrics,
    secret::Secret,
};

use super::Criterion;

const OTHERS: u32 = 10_000;

pub(super) fn run(criterion: &mut Criterion) {
    let defence = Defence::new(Settings::default(), Metrics::new().unwrap());
    let client = |number: u32| Ipv4Addr::from(0x0a00_0000 + number).into();
    for number in 0..OTHERS {
        let name = format!("user{number}");
        defence.begin(client(number), &name).unwrap().succeeded();
    }
    let _guests: Vec<_> = (0..1000)
        .map(|n| defence.admit(client(n)).unwrap())
        .collect();
    let mut group = criterion.benchmark_group("defence");
    group.bench_function("login, known", |bencher| {
        bencher.iter(|| {
            let mut tried = defence
                .begin(black_box(client(7)), black_box("user7"))
                .unwrap();
            tried.is_of("user7");
            assert!(!tried.is_too_late());
            tried.succeeded();
        });
    });
    group.bench_function("login, not known, nothing comes of it", |bencher| {
        bencher.iter(|| {
            drop(
                defence
                    .begin(black_box(client(7)), black_box("user8"))
                    .unwrap(),
            )
        });
    });
    let password = Secret::new(b"the same again".to_vec());
    group.bench_function("the same wrong password", |bencher| {
        bencher.iter(|| {
            let tried = defence
                .begin(black_box(client(7)), black_box("user9"))
                .unwrap();
            tried.failed(&password)
        });
    });
    group.bench_function("connection, from guest to resident to its end", |bencher| {
        bencher.iter(|| {
            let mut guest = defence.admit(black_box(client(20_000))).unwrap();
            guest.starts_login().unwrap();
            drop(guest.moves_in());
        });
    });
    group.finish();
}
