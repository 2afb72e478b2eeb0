//! Writes the manual pages into a folder: `cargo run --example man -- DIR`.
//!
//! A page for the program and one for each of its commands, of section 8, come from the definition of the command line
//! and from chapters of `docs/manual.md`; `pigeonair.toml(5)` is the manual's chapter about the configuration file.
//! None of it is part of the program.

mod markdown;
mod page;

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or("usage: cargo run --example man -- DIR")?;
    fs::create_dir_all(&folder)?;
    for (name, text) in page::all()? {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}
