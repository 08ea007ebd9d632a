//! What was measured, as a table for people and as JSON for `scripts/bench-table`.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

/// One row: what Sidestream needs beside what somebody else needs, in the same run.
#[derive(Debug, Clone)]
pub struct Row {
    /// A stable name, for scripts.
    pub id: String,
    pub what: String,
    pub unit: &'static str,
    pub ours: Figure,
    pub beside: Option<(String, Figure)>,
    /// The bound, and what it is of.
    pub goal: Option<Goal>,
    pub note: String,
}

/// What was measured: the figure that counts, and that of each round.
#[derive(Debug, Clone)]
pub struct Figure {
    pub value: f64,
    rounds: Vec<f64>,
}

impl Figure {
    /// The median of several rounds.
    pub fn median(rounds: impl IntoIterator<Item = f64>) -> Figure {
        let rounds: Vec<f64> = rounds.into_iter().collect();
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let value = match sorted.len() % 2 {
            _ if sorted.is_empty() => f64::NAN,
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Figure { value, rounds }
    }

    /// One that the caller chose from its rounds.
    pub fn chosen(value: f64, rounds: impl IntoIterator<Item = f64>) -> Figure {
        Figure { value, rounds: rounds.into_iter().collect() }
    }

    fn at(&self, round: usize) -> f64 {
        self.rounds.get(round).copied().unwrap_or(self.value)
    }
}

impl From<f64> for Figure {
    fn from(once: f64) -> Figure {
        Figure { value: once, rounds: vec![once] }
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// Ours divided by theirs.
    RatioAtMost(f64),
    RatioAtLeast(f64),
    AtMost(f64),
    AtLeast(f64),
    /// Ours less theirs.
    MoreByAtMost(f64),
}

impl Row {
    pub fn new(id: &str, what: &str, unit: &'static str, ours: impl Into<Figure>) -> Row {
        Row {
            id: id.to_owned(),
            what: what.to_owned(),
            unit,
            ours: ours.into(),
            beside: None,
            goal: None,
            note: String::new(),
        }
    }

    pub fn beside(mut self, who: &str, theirs: impl Into<Figure>) -> Row {
        self.beside = Some((who.to_owned(), theirs.into()));
        self
    }

    pub fn goal(mut self, goal: Goal) -> Row {
        self.goal = Some(goal);
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Row {
        self.note = note.into();
        self
    }

    fn ratio(&self) -> Option<f64> {
        let (_, theirs) = self.beside.as_ref()?;
        (theirs.value != 0.0).then(|| self.ours.value / theirs.value)
    }

    /// Lowest and highest of the ratio, or of our figure where nothing stands beside it, over the
    /// rounds; nothing for what was measured once.
    fn spread(&self) -> Option<(f64, f64)> {
        let theirs = self.beside.as_ref().map(|(_, theirs)| theirs);
        let rounds = self.ours.rounds.len().max(theirs.map_or(0, |theirs| theirs.rounds.len()));
        let of = |round| match theirs {
            Some(theirs) => self.ours.at(round) / theirs.at(round),
            None => self.ours.at(round),
        };
        // What the row shows is of its rounds too, but need not be a ratio of two of one round.
        let shown = if theirs.is_some() { self.ratio()? } else { self.ours.value };
        let values = (0..rounds).map(of).chain([shown]);
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let lowest = values.iter().copied().min_by(f64::total_cmp)?;
        let highest = values.iter().copied().max_by(f64::total_cmp)?;
        (rounds > 1).then_some((lowest, highest))
    }

    fn is_met(&self) -> Option<bool> {
        let ours = self.ours.value;
        let theirs = self.beside.as_ref().map(|(_, theirs)| theirs.value);
        match self.goal? {
            Goal::RatioAtMost(bound) => self.ratio().map(|ratio| ratio <= bound),
            Goal::RatioAtLeast(bound) => self.ratio().map(|ratio| ratio >= bound),
            Goal::AtMost(bound) => Some(ours <= bound),
            Goal::AtLeast(bound) => Some(ours >= bound),
            Goal::MoreByAtMost(bound) => theirs.map(|theirs| ours - theirs <= bound),
        }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Some(Goal::RatioAtMost(bound)) => format!("≤ {} of it", show(bound)),
            Some(Goal::RatioAtLeast(bound)) => format!("≥ {} of it", show(bound)),
            Some(Goal::AtMost(bound)) => format!("≤ {}", show(bound)),
            Some(Goal::AtLeast(bound)) => format!("≥ {}", show(bound)),
            Some(Goal::MoreByAtMost(bound)) => format!("≤ {} more", show(bound)),
            None => String::new(),
        }
    }

    fn cells(&self) -> [String; 8] {
        let (who, theirs) = match &self.beside {
            Some((who, value)) => (who.clone(), show(value.value)),
            None => (String::new(), String::new()),
        };
        let spread = match self.spread() {
            Some((lowest, highest)) => format!("{}–{}", show(lowest), show(highest)),
            None => "once".to_owned(),
        };
        let met = match self.is_met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        [
            format!("{} ({})", self.what, self.unit),
            show(self.ours.value),
            who,
            theirs,
            self.ratio().map(show).unwrap_or_default(),
            spread,
            self.goal_text(),
            met.to_owned(),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "what": self.what,
            "unit": self.unit,
            "sidestream": self.ours.value,
            "beside": self.beside.as_ref().map(|(who, _)| who),
            "theirs": self.beside.as_ref().map(|(_, theirs)| theirs.value),
            "ratio": self.ratio(),
            "spread": self.spread().map(|(lowest, highest)| [lowest, highest]),
            "goal": self.goal_text(),
            "met": self.is_met(),
            "note": self.note,
        })
    }
}

/// Three digits that mean something.
pub fn show(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at) % 3 == 0 && !text.ends_with('-') {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Everything of one run.
#[derive(Default)]
pub struct Report {
    /// Whether goals are looked at: those of a small run say nothing.
    pub is_judged: bool,
    pub rows: Vec<Row>,
    /// Who was not there, or did not do what was asked.
    pub absent: Vec<String>,
    /// How long each group took, in seconds.
    pub took: Vec<(String, f64)>,
}

impl Report {
    /// Adds a row, and shows it at once: a whole run takes long.
    pub fn add(&mut self, mut row: Row) {
        row.goal = row.goal.filter(|_| self.is_judged);
        let [what, ours, who, theirs, ratio, spread, goal, met] = row.cells();
        let beside = if who.is_empty() { who } else { format!("{who}: {theirs}, ratio {ratio}") };
        println!("  {what}: {ours}   {beside} ({spread})   {goal} {met}   {}", row.note);
        self.rows.push(row);
    }

    pub fn absent(&mut self, who: &str, why: &str) {
        let who = format!("{who}: {}", why.trim());
        // Several rounds and rows ask for the same.
        if !self.absent.contains(&who) {
            println!("  absent: {who}");
            self.absent.push(who);
        }
    }

    pub fn missed(&self) -> usize {
        self.rows.iter().filter(|row| row.is_met() == Some(false)).count()
    }

    pub fn markdown(&self, machine: &str) -> String {
        let mut text = format!("# Load, {machine}\n\n");
        text.push_str("Made by `make bench`. Each row was measured in one run, side by side.\n");
        text.push_str(
            "Spread: lowest to highest of the ratio over the rounds, or of our figure.\n\n",
        );
        let head = ["what", "Sidestream", "beside", "theirs", "ratio", "spread", "goal", ""];
        let _ = writeln!(text, "| {} |", head.join(" | "));
        text.push_str("| --- | ---: | --- | ---: | ---: | ---: | --- | --- |\n");
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", row.cells().join(" | "));
        }
        let notes: Vec<&Row> = self.rows.iter().filter(|row| !row.note.is_empty()).collect();
        if !notes.is_empty() {
            text.push_str("\nNotes:\n\n");
            for row in notes {
                let _ = writeln!(text, "- {}: {}", row.what, row.note);
            }
        }
        if !self.absent.is_empty() {
            text.push_str("\nAbsent in this run:\n\n");
            for who in &self.absent {
                let _ = writeln!(text, "- {who}");
            }
        }
        let took: Vec<String> =
            self.took.iter().map(|(group, time)| format!("{group} {time:.0} s")).collect();
        let _ = writeln!(text, "\nTime taken: {}.", took.join(", "));
        text
    }

    /// Writes both forms; the name begins with the date.
    pub fn write(&self, dir: &Path, name: &str, date: &str, machine: &str) {
        let json = json!({
            "date": date,
            "machine": machine,
            "rows": self.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
            "absent": self.absent,
        });
        std::fs::create_dir_all(dir).expect("a directory");
        let path = dir.join(format!("{date}-{name}.md"));
        std::fs::write(&path, self.markdown(machine)).expect("a file");
        std::fs::write(path.with_extension("json"), format!("{json:#}\n")).expect("a file");
        println!("\nwritten to {}", path.display());
    }
}
