//! Results as tables for people or JSON for programs.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// What the numbers of a column are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Operations per second.
    PerSecond,
    /// Nanoseconds.
    Nanos,
    /// Bytes.
    Bytes,
    /// Something divided by something of the same kind.
    Ratio,
    /// How many.
    Count,
}

/// Which figures are good.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// Large ones.
    Higher,
    /// Small ones.
    Lower,
}

/// One column of a table.
pub(crate) struct Column {
    name: &'static str,
    unit: Unit,
}

/// One row: an engine under one setting.
struct Row {
    group: String,
    engine: String,
    cells: Vec<Option<f64>>,
}

/// The table of one measure at one size.
pub(crate) struct Section {
    measure: &'static str,
    title: String,
    parameters: Vec<(&'static str, Value)>,
    columns: Vec<Column>,
    compared: usize,
    better: Better,
    rows: Vec<Row>,
    notes: Vec<String>,
}

/// The engine the others are compared with.
const SUBJECT: &str = "alluvium";

impl Section {
    /// A table with the given columns; figures in column `compared` are turned
    /// into ratios, in which more than 1 speaks for Alluvium.
    pub(crate) fn new(
        measure: &'static str,
        title: String,
        columns: &[(&'static str, Unit)],
        compared: usize,
        better: Better,
    ) -> Self {
        let columns = columns.iter().map(|&(name, unit)| Column { name, unit }).collect();
        Self {
            measure,
            title,
            parameters: Vec::new(),
            columns,
            compared,
            better,
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Records a parameter of the measure, for the JSON form.
    pub(crate) fn parameter(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.parameters.push((name, value.into()));
        self
    }

    /// Adds a sentence below the table.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Adds a row; rows of one group are compared with each other.
    pub(crate) fn row(&mut self, group: &str, engine: &str, cells: Vec<Option<f64>>) {
        assert_eq!(cells.len(), self.columns.len(), "a cell for every column");
        self.rows.push(Row { group: group.to_owned(), engine: engine.to_owned(), cells });
    }

    /// How many times better Alluvium is than this row.
    fn ratio(&self, row: &Row) -> Option<f64> {
        let subject = self
            .rows
            .iter()
            .find(|other| other.group == row.group && other.engine == SUBJECT)?
            .cells[self.compared]?;
        let other = row.cells[self.compared]?;
        let (over, under) = match self.better {
            Better::Higher => (subject, other),
            Better::Lower => (other, subject),
        };
        (row.engine != "bare loop" && under > 0.0).then_some(over / under)
    }

    fn table(&self) -> String {
        let mut lines = vec![vec![String::new(), "engine".to_owned()]];
        lines[0].extend(self.columns.iter().map(|column| column.name.to_owned()));
        lines[0].push("alluvium is".to_owned());
        let mut group = "";
        for row in &self.rows {
            let shown = if row.group == group { "" } else { &row.group };
            group = &row.group;
            let mut line = vec![shown.to_owned(), row.engine.clone()];
            line.extend(self.columns.iter().zip(&row.cells).map(|(column, cell)| {
                cell.map_or_else(|| "-".to_owned(), |number| shown_as(number, column.unit))
            }));
            line.push(match self.ratio(row) {
                Some(_) if row.engine == SUBJECT => "1".to_owned(),
                Some(ratio) => format!("{} x", three_digits(ratio)),
                None => "-".to_owned(),
            });
            lines.push(line);
        }
        let widths: Vec<usize> = (0..lines[0].len())
            .map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = format!("\n## {}: {}\n\n", self.measure, self.title);
        for line in &lines {
            let mut row = String::new();
            for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
                // Labels to the left, numbers to the right.
                let cell =
                    if at < 2 { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
                row.push_str(&cell);
            }
            let _ = writeln!(text, "{}", row.trim_end());
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let mut object = Map::new();
                object.insert("group".to_owned(), json!(row.group));
                object.insert("engine".to_owned(), json!(row.engine));
                for (column, cell) in self.columns.iter().zip(&row.cells) {
                    object.insert(column.name.to_owned(), json!(cell));
                }
                object.insert("alluvium_is".to_owned(), json!(self.ratio(row)));
                Value::Object(object)
            })
            .collect();
        let units: Map<String, Value> = self
            .columns
            .iter()
            .map(|column| (column.name.to_owned(), json!(unit_name(column.unit))))
            .collect();
        let parameters: Map<String, Value> = self
            .parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        json!({
            "measure": self.measure,
            "title": self.title,
            "parameters": parameters,
            "units": units,
            "compared": self.columns[self.compared].name,
            "rows": rows,
            "notes": self.notes,
        })
    }
}

/// Everything one run found.
#[derive(Default)]
pub(crate) struct Report {
    facts: Vec<(&'static str, String)>,
    sections: Vec<Section>,
}

impl Report {
    /// Records something that a reader of the numbers must know.
    pub(crate) fn fact(&mut self, name: &'static str, value: impl Into<String>) {
        self.facts.push((name, value.into()));
    }

    /// Adds a table.
    pub(crate) fn add(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// The report as text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.facts {
            let _ = writeln!(text, "{name}: {value}");
        }
        for section in &self.sections {
            text.push_str(&section.table());
        }
        text
    }

    /// The report as one JSON object.
    pub(crate) fn json(&self) -> Value {
        let facts: Map<String, Value> =
            self.facts.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let sections: Vec<Value> = self.sections.iter().map(Section::json).collect();
        json!({ "run": facts, "sections": sections })
    }
}

/// The middle of some figures, if there are any.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        even if even % 2 == 0 => Some(f64::midpoint(figures[middle - 1], figures[middle])),
        _ => Some(figures[middle]),
    }
}

/// The mean of some figures, if there are any.
pub(crate) fn mean(figures: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u32);
    for figure in figures {
        sum += figure;
        count += 1;
    }
    (count > 0).then(|| sum / f64::from(count))
}

/// A number of keys, as a person would say it.
pub(crate) fn keys_name(keys: u64) -> String {
    if keys.is_multiple_of(1_000_000) && keys > 0 {
        format!("{} M", keys / 1_000_000)
    } else if keys.is_multiple_of(1000) && keys > 0 {
        format!("{} k", keys / 1000)
    } else {
        keys.to_string()
    }
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::PerSecond => "1/s",
        Unit::Nanos => "ns",
        Unit::Bytes => "bytes",
        Unit::Ratio => "ratio",
        Unit::Count => "count",
    }
}

fn shown_as(number: f64, unit: Unit) -> String {
    let scaled = |steps: &[(f64, &str)]| {
        let &(size, name) =
            steps.iter().rev().find(|(size, _)| number.abs() >= *size).unwrap_or(&steps[0]);
        format!("{}{name}", three_digits(number / size))
    };
    match unit {
        Unit::PerSecond => scaled(&[(1.0, "/s"), (1e3, " k/s"), (1e6, " M/s")]),
        Unit::Nanos => scaled(&[(1.0, " ns"), (1e3, " us"), (1e6, " ms"), (1e9, " s")]),
        Unit::Bytes => scaled(&[(1.0, " B"), (1e3, " kB"), (1e6, " MB"), (1e9, " GB")]),
        Unit::Ratio => three_digits(number),
        Unit::Count => format!("{number:.0}"),
    }
}

fn three_digits(number: f64) -> String {
    match number.abs() {
        size if size >= 99.95 => format!("{number:.0}"),
        size if size >= 9.995 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(better: Better) -> Section {
        let mut section =
            Section::new("m", "t".to_owned(), &[("figure", Unit::PerSecond)], 0, better);
        section.row("g", "alluvium", vec![Some(200.0)]);
        section.row("g", "other", vec![Some(50.0)]);
        section.row("g", "silent", vec![None]);
        section
    }

    #[test]
    fn ratio_above_one_speaks_for_the_subject() {
        let higher = section(Better::Higher);
        assert_eq!(higher.ratio(&higher.rows[1]), Some(4.0));
        let lower = section(Better::Lower);
        assert_eq!(lower.ratio(&lower.rows[1]), Some(0.25));
        assert_eq!(lower.ratio(&lower.rows[2]), None);
    }

    #[test]
    fn numbers_are_shown_with_three_digits_and_a_fitting_unit() {
        assert_eq!(shown_as(1_234_567.0, Unit::PerSecond), "1.23 M/s");
        assert_eq!(shown_as(0.5, Unit::Nanos), "0.50 ns");
        assert_eq!(shown_as(45_600.0, Unit::Nanos), "45.6 us");
        assert_eq!(shown_as(999.0, Unit::Bytes), "999 B");
    }

    #[test]
    fn median_of_an_even_number_lies_between() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median([]), None);
    }
}
