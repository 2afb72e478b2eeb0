//! From figures to tables.
//!
//! What is shown of a work is the median of its rounds, with the least and the most that any round took beside it. A
//! ratio is that of two medians.

/// One figure per round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The one in the middle, or what lies between the two there.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        }
    }

    /// With its spread.
    pub(crate) fn shown(&self, decimals: usize) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let median = self.median();
        if self.0.len() == 1 {
            return format!("{median:.decimals$}");
        }
        format!("{median:.decimals$} ({least:.decimals$} to {most:.decimals$})")
    }

    /// How many times the other one it is.
    pub(crate) fn against(&self, other: &Self) -> String {
        format!("{:.2}", self.median() / other.median())
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<T: IntoIterator<Item = f64>>(figures: T) -> Self {
        Self(figures.into_iter().collect())
    }
}

/// Round by round, the sum of both.
pub(crate) fn sum(one: &Figures, other: &Figures) -> Figures {
    let both = one.0.iter().zip(&other.0);
    both.map(|(one, other)| one + other).collect()
}

/// Runs the work of every subject once in each round; what it returns, by subject.
pub(crate) fn interleaved<S, const N: usize>(
    rounds: usize,
    subjects: &[S],
    mut work: impl FnMut(&S) -> [f64; N],
) -> Vec<[Figures; N]> {
    let mut all = vec![std::array::from_fn(|_| Figures::default()); subjects.len()];
    for _ in 0..rounds {
        for (subject, figures) in subjects.iter().zip(&mut all) {
            for (figures, figure) in figures.iter_mut().zip(work(subject)) {
                figures.push(figure);
            }
        }
    }
    all
}

/// A table in Markdown.
pub(crate) struct Table {
    lines: Vec<String>,
}

impl Table {
    pub(crate) fn new(heads: &[&str]) -> Self {
        let mut table = Self { lines: Vec::new() };
        table.row(heads);
        table.row(&vec!["---"; heads.len()]);
        table
    }

    pub(crate) fn row(&mut self, cells: &[impl AsRef<str>]) {
        let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
        self.lines.push(format!("| {} |", cells.join(" | ")));
    }

    pub(crate) fn print(&self, title: &str) {
        println!("\n{title}\n");
        for line in &self.lines {
            println!("{line}");
        }
    }
}
