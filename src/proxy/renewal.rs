//! Files of TLS that are replaced while the front runs: looked at off the workers, put to use, logged and counted.
//!
//! Sessions are not touched: who connects from then on sees the new certificate. What cannot be used is an error in the
//! log, once, and what is in use stays (how looks are taken stands in `net::tls`).

use crate::{
    metrics::Metrics,
    net::tls::{Keeper, News, Of},
    outcome::chain,
};

/// Looks at the files for as long as the process runs.
pub async fn keep(mut keeper: Keeper, metrics: Metrics) {
    // Both are there from the start: a counter that begins at 1 does not look as if it had grown.
    for result in ["ok", "failed"] {
        metrics.tls_reloads.with_label_values(&[result]);
    }
    show_ends(&keeper, &metrics);
    loop {
        let every = keeper.every();
        let looked = tokio::task::spawn_blocking(move || {
            let news = keeper.look();
            (keeper, news)
        });
        let Ok((back, news)) = looked.await else {
            tracing::error!(
                "looking at the files of [proxy.tls] failed, replaced ones are not seen any more"
            );
            return;
        };
        keeper = back;
        for news in &news {
            tell(news, &metrics);
        }
        if !news.is_empty() {
            show_ends(&keeper, &metrics);
        }
        tokio::time::sleep(every).await;
    }
}

fn tell(news: &News, metrics: &Metrics) {
    let count = |result| metrics.tls_reloads.with_label_values(&[result]).inc();
    match news {
        News::Taken(of) => {
            count("ok");
            tracing::info!(of = word(*of), "replaced files of TLS are in use");
        }
        News::Mended(of) => {
            tracing::info!(
                of = word(*of),
                "files of TLS are right again, and as those in use"
            );
        }
        News::Wrong(of, error) => {
            count("failed");
            tracing::error!(
                of = word(*of),
                error = chain(error),
                "replaced files of TLS cannot be used, those before stay in use"
            );
        }
        News::Clash(clash) => tracing::warn!(
            name = clash.name,
            shown = word(Of::Certificate(clash.shown)),
            hidden = word(Of::Certificate(clash.hidden)),
            "two certificates have the same name"
        ),
        News::Untimely(of, problem) => tracing::error!(
            of = word(*of),
            problem,
            "a certificate in use is not valid now"
        ),
    }
}

fn show_ends(keeper: &Keeper, metrics: &Metrics) {
    for (of, end) in keeper.ends() {
        metrics
            .tls_certificate_expiry
            .with_label_values(&[word(of)])
            .set(end.as_second());
    }
}

/// As the configuration has it, below `[proxy.tls]`.
fn word(of: Of) -> String {
    match of {
        Of::Certificate(0) => "certificate".to_owned(),
        Of::Certificate(position) => format!("sni[{position}]"),
        Of::Clients => "client_ca".to_owned(),
        Of::Tickets => "ticket_keys".to_owned(),
    }
}
