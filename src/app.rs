//! Wiring. (placeholder)

use crate::config::Config;

/// Why a process ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Our own mistake.
    #[error("internal error: {0}")]
    Internal(&'static str),
    /// The system refused something.
    #[error("cannot start")]
    System(#[source] std::io::Error),
}

/// Runs the front until it is told to end.
pub fn run_front(_: Config) -> Result<(), AppError> {
    Err(AppError::Internal("nothing to run yet"))
}

/// Runs the node until it is told to end.
pub fn run_node(_: Config) -> Result<(), AppError> {
    Err(AppError::Internal("nothing to run yet"))
}
