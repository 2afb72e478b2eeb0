//! `pigeonair completion`: what a shell reads in order to complete our command lines, made of their own definition.

use std::io::Write;

use clap::ValueEnum;

use super::{Failed, command, write};

/// Whose completion it is to be.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    /// For /usr/share/bash-completion/completions/pigeonair.
    Bash,
    /// For /usr/share/fish/vendor_completions.d/pigeonair.fish.
    Fish,
    /// For /usr/share/zsh/vendor-completions/_pigeonair.
    Zsh,
}

/// Prints it.
pub(super) fn run(shell: Shell, out: &mut impl Write) -> Result<(), Failed> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    // By way of memory, since the generator panics when it can't write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "pigeonair", &mut script);
    write(out, &script)
}
