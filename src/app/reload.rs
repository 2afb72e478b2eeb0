//! Another configuration for a process that runs: read and checked whole, built, then taken whole or not at all.
//!
//! ```text
//! SIGHUP, POST /reload ─> read ─> may it change? ─> build ─> in force for all that begins from now on
//!                           └────────┴───────────────┴─> problems, a line for each; the old one stays in force
//! ```
//!
//! The file is read with the rights that are left: as the process's user, and within its sandbox. Sessions that have begun go
//! on as they are. Reloads come one after the other.

use std::path::{Path, PathBuf};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::spawn_blocking,
};

use super::AppError;
use crate::{
    admin::{Asked, Reloaded, Reloads, Taken},
    config::{self, Config, Problems, Role},
    log,
    metrics::Metrics,
    outcome::chain,
};

/// A process that serves and can go on by another configuration.
pub(super) trait Serving {
    /// Builds what `after` asks for, then serves by it whoever comes from now on. On failure all is as before.
    fn take(&mut self, before: &Config, after: &Config) -> Result<(), AppError>;

    /// What keeps it from serving anybody now, if anything does.
    async fn trouble(&self) -> Option<String> {
        None
    }

    /// No other process serves in this place any more.
    fn alone(&mut self) {}

    /// Another process serves in this one's place.
    fn replaced(&mut self) {}
}

/// Where a process's configuration comes from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Which of its sections are read.
    role: Role,
    pub(super) path: PathBuf,
}

impl Source {
    /// A file that is found again wherever the process is.
    pub(super) fn new(role: Role, path: &Path) -> Result<Self, AppError> {
        let path = std::path::absolute(path).map_err(AppError::Runtime)?;
        Ok(Self { role, path })
    }
}

/// Reads it again.
#[derive(Debug)]
pub(super) struct Reload {
    source: Source,
    /// What is in force.
    config: Config,
    hangup: Signal,
    /// Whether it is to be read without being asked.
    is_due: bool,
    asked: mpsc::Receiver<Asked>,
    /// Keeps the other end open.
    reloads: Reloads,
    metrics: Metrics,
}

impl Reload {
    /// Of a process that has begun with a configuration.
    pub(super) fn new(source: Source, config: Config, metrics: Metrics) -> Result<Self, AppError> {
        // Both are there from the start: a counter that begins at 1 does not look as if it had grown.
        for result in ["ok", "failed"] {
            metrics.reloads.with_label_values(&[result]);
        }
        let (reloads, asked) = Reloads::new();
        let reload = Self {
            source,
            config,
            hangup: signal(SignalKind::hangup()).map_err(AppError::Runtime)?,
            is_due: false,
            asked,
            reloads,
            metrics,
        };
        reload.show_time();
        Ok(reload)
    }

    /// For whoever asks over a socket.
    pub(super) fn reloads(&self) -> Reloads {
        self.reloads.clone()
    }

    /// What is in force.
    pub(super) const fn config(&self) -> &Config {
        &self.config
    }

    /// Has it read as soon as may be.
    pub(super) const fn again(&mut self) {
        self.is_due = true;
    }

    /// Waits until somebody wants a reload; who, if he waits for an answer.
    pub(super) async fn wanted(&mut self) -> Option<Asked> {
        if std::mem::take(&mut self.is_due) {
            return None;
        }
        tokio::select! {
            _ = self.hangup.recv() => {
                tracing::info!("SIGHUP: asked to reload");
                None
            }
            asked = self.asked.recv() => asked,
        }
    }

    /// Reloads, and says what came of it; whether the new configuration is in force.
    pub(super) async fn run(&mut self, serving: &mut impl Serving, asked: Option<Asked>) -> bool {
        let reloaded = self.take(serving).await;
        let result = if reloaded.is_ok() { "ok" } else { "failed" };
        self.metrics.reloads.with_label_values(&[result]).inc();
        match &reloaded {
            Ok(Taken { changed, warnings }) => {
                self.show_time();
                for warning in warnings {
                    tracing::warn!(%warning, "configuration has a risk");
                }
                tracing::info!(changed = changed.join(" "), "configuration taken");
            }
            Err(problems) => {
                for problem in problems {
                    tracing::error!(problem, "configuration has a problem");
                }
                tracing::error!(
                    problems = problems.len(),
                    "configuration not taken, the old one stays in force"
                );
            }
        }
        let is_taken = reloaded.is_ok();
        if let Some(asked) = asked {
            // Who asked may have gone.
            let _ = asked.send(reloaded);
        }
        is_taken
    }

    async fn take(&mut self, serving: &mut impl Serving) -> Reloaded {
        let lines = |problems: Problems| problems.lines().collect::<Vec<_>>();
        let Source { role, path } = self.source.clone();
        let read = spawn_blocking(move || config::load_for(role, &path));
        let Ok(read) = read.await else {
            return Err(vec!["reading the configuration failed".to_owned()]);
        };
        let Source { role, path } = &self.source;
        let after = read.map_err(|problems| lines(problems.explained(&self.config)))?;
        config::check_change(*role, path, &self.config, &after).map_err(lines)?;
        serving.take(&self.config, &after).map_err(|error| {
            let problem = Problems::one(path, section(&error), chain(&error));
            lines(problem)
        })?;
        log::set_level(after.log.level);
        let before = std::mem::replace(&mut self.config, after);
        Ok(Taken {
            changed: before.sections.changed(&self.config.sections),
            warnings: self.config.warnings.clone(),
        })
    }

    fn show_time(&self) {
        let now = jiff::Timestamp::now().as_second();
        self.metrics.config_loaded.set(now);
    }
}

/// Of what section a configuration is that cannot be built.
const fn section(error: &AppError) -> &'static str {
    match error {
        AppError::Directory(_) => "directory",
        AppError::Handover(_) => "acceptor",
        AppError::Link(_) => "nodes",
        AppError::Mailstore(_) => "mailstore",
        AppError::Policy(_) => "proxy.policy",
        AppError::Tls(_) => "proxy.tls",
        _ => "",
    }
}
