//! The `pigeonair` program: runs a command and turns what came of it into an exit code.
//!
//! The codes are those of `sysexits.h`, so that service managers know what to do: 64 and 78 need a person (no restart
//! helps), 70 to 73 may pass.

use std::process::ExitCode;

use pigeonair::{app::AppError, cli, cli::Failed};

fn main() -> ExitCode {
    match cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => ExitCode::from(exit_code(&failed)),
    }
}

/// Every way to fail has a code here and nowhere else.
const fn exit_code(failed: &Failed) -> u8 {
    const USAGE: u8 = 64;
    const SOFTWARE: u8 = 70;
    const OS: u8 = 71;
    const CANTCREAT: u8 = 73;
    const CONFIG: u8 = 78;
    match failed {
        Failed::CommandLine(_) => USAGE,
        Failed::Configuration(_) => CONFIG,
        Failed::Output { .. } => CANTCREAT,
        Failed::Random(_) => OS,
        Failed::Log(_) => SOFTWARE,
        Failed::App(error) => match error {
            AppError::Metrics(_) | AppError::Link(_) => SOFTWARE,
            AppError::Bind { .. } | AppError::Runtime(_) => OS,
            AppError::Directory(_)
            | AppError::Handover(_)
            | AppError::Mailstore(_)
            | AppError::Role(_)
            | AppError::Tls(_) => CONFIG,
        },
    }
}
