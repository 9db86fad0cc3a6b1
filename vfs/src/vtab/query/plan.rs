//! xBestIndex: which way to the rows is the cheapest.

use crate::sqlite::value::Affinity;
use crate::vtab::declare::{Column, Definition};
use crate::vtab::known::Known;

/// What SQLite wants to know of a column (`SQLITE_INDEX_CONSTRAINT_...`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Eq,
    /// `IN`, all values at once.
    In,
    Lt,
    Le,
    Gt,
    Ge,
    Like,
    Glob,
    Null,
    Limit,
    Offset,
}

impl Op {
    /// Whether it is about how many rows are wanted, not about which.
    pub(crate) fn is_count(self) -> bool {
        matches!(self, Op::Limit | Op::Offset)
    }
}

const OPS: [(Op, char, &str); 11] = [
    (Op::Eq, '=', "=?"),
    (Op::In, 'i', " IN ?"),
    (Op::Lt, '<', "<?"),
    (Op::Le, 'l', "<=?"),
    (Op::Gt, '>', ">?"),
    (Op::Ge, 'g', ">=?"),
    (Op::Like, 'k', " LIKE ?"),
    (Op::Glob, 'b', " GLOB ?"),
    (Op::Null, 'n', " IS NULL"),
    (Op::Limit, 'L', "LIMIT ?"),
    (Op::Offset, 'O', "OFFSET ?"),
];

/// After the letter of a constraint whose operand is a literal.
const LITERAL: &str = "'";

/// One constraint of a query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Constraint {
    /// `None`: the rowid.
    pub column: Option<usize>,
    pub op: Op,
    /// Compared in the collation BINARY; for a pattern, by SQLite's own `like()` or `glob()`.
    pub binary: bool,
    /// The operand is a literal.
    pub literal: bool,
}

/// What SQLite asks: constraints with their place in its list, and the order it wants.
#[derive(Debug, Default)]
pub(crate) struct Question {
    pub constraints: Vec<(usize, Constraint)>,
    /// Columns, and whether descending. `None`: the rowid.
    pub order: Vec<(Option<usize>, bool)>,
}

/// A way to the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Every row, in order of rowid.
    Rowid,
    /// By the index of a column, in the order of its values.
    Index(usize),
}

/// What one argument of the cursor is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// `None`: the rowid, or none.
    pub column: Option<usize>,
    pub op: Op,
    pub literal: bool,
}

/// A chosen way, as the cursor gets it: through `idxNum` and `idxStr`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub access: Access,
    pub descending: bool,
    /// Rows must come in order.
    pub ordered: bool,
    /// For each argument of the cursor, what it is about. Equalities of other columns than the
    /// index's are met by intersection. `LIMIT` and `OFFSET` only tell what will be needed: SQLite
    /// counts rows itself, because it does not say whether it has conditions that it kept to itself.
    pub arguments: Vec<Wanted>,
}

/// The answer to SQLite.
#[derive(Debug)]
pub(crate) struct Answer {
    pub plan: Plan,
    /// Places, in SQLite's list, of the constraints that become arguments.
    pub used: Vec<usize>,
    pub consumes_order: bool,
    pub cost: f64,
    pub rows: u64,
    pub unique: bool,
}

/// Costs are in rows; a round trip costs as much as fetching these many.
const TRIP: f64 = 20.0;
/// Rows in a batch.
const BATCH: f64 = 500.0;
/// Rows that a table is taken to have at least when costs are compared, here and by SQLite: tables
/// grow, and prepared statements stay. How many rows will come is told as it is.
const GROWN: u64 = 1000;
/// Values that an `IN` is taken to have.
const IN_VALUES: f64 = 10.0;

/// Chooses.
pub(crate) fn best(definition: &Definition, known: &Known, question: &Question) -> Answer {
    let indexed = |(_, column): &(usize, &Column)| column.is_binary() && known.indices.contains(&column.name);
    let indexes = definition.columns.iter().enumerate().filter(indexed).map(|(n, _)| Access::Index(n));
    let grown = known.rows.max(GROWN) as f64;
    let way = |access, total| way(definition, known, question, access, total);
    let ways = std::iter::once(Access::Rowid).chain(indexes).map(|access| way(access, grown));
    let cheapest = ways.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, answer)| answer);
    let cheapest = cheapest.unwrap_or_else(|| way(Access::Rowid, grown).1);
    let rows = way(cheapest.plan.access, known.rows.max(1) as f64).1.rows;
    Answer { rows, ..cheapest }
}

/// One way, with what it costs including the sorting that it leaves to SQLite.
fn way(definition: &Definition, known: &Known, question: &Question, access: Access, total: f64) -> (f64, Answer) {
    let own = |column: Option<usize>| match access {
        Access::Rowid => column.is_none() || column == definition.alias,
        Access::Index(n) => column == Some(n),
    };
    let numeric = |op: Op| matches!(op, Op::Eq | Op::In | Op::Lt | Op::Le | Op::Gt | Op::Ge);
    let usable = |constraint: &Constraint| match access {
        Access::Rowid => own(constraint.column) && numeric(constraint.op),
        Access::Index(n) => {
            let like = matches!(constraint.op, Op::Like | Op::Glob);
            let text = definition.columns[n].affinity == Affinity::Text;
            own(constraint.column) && constraint.binary && (text || !like)
        }
    };
    let distinct = |column: usize| {
        let name = &definition.columns[column].name;
        match known.distinct.get(name) {
            // Not counted since there are rows: SQLite's own guess is ten rows for each value.
            None | Some(0) => (known.rows as f64 / 10.0).max(1.0),
            Some(distinct) => *distinct as f64,
        }
    };
    // SQLite adds a range to `LIKE` and `GLOB`, and forgets that blobs can be like text, too.
    let is_pattern = |op: Op| matches!(op, Op::Like | Op::Glob);
    let has_pattern = question.constraints.iter().any(|(_, c)| own(c.column) && is_pattern(c.op));
    let is_range = |op: Op| matches!(op, Op::Lt | Op::Le | Op::Gt | Op::Ge);
    let mut rows = total;
    let mut arguments = Vec::new();
    let mut used = Vec::new();
    let mut exact = None;
    let own_constraints: Vec<&(usize, Constraint)> = question
        .constraints
        .iter()
        .filter(|(_, constraint)| !constraint.op.is_count() && usable(constraint))
        .filter(|(_, constraint)| !(has_pattern && is_range(constraint.op)))
        .collect();
    // An equality makes the other constraints of the column needless.
    let point = own_constraints.iter().find(|(_, c)| matches!(c.op, Op::Eq | Op::Null | Op::In));
    let point_only = point.map(|point| vec![*point]);
    for (place, constraint) in point_only.unwrap_or(own_constraints) {
        let of_value = match access {
            Access::Rowid => 1.0,
            Access::Index(n) => known.rows.max(1) as f64 / distinct(n),
        };
        rows = match constraint.op {
            Op::Eq => of_value,
            Op::In => (of_value * IN_VALUES).min(total),
            Op::Null => (total / 10.0).max(1.0),
            Op::Like | Op::Glob => rows / 10.0,
            _ => rows / 4.0,
        };
        if matches!(constraint.op, Op::Eq | Op::Null) {
            exact = Some(constraint.op);
        }
        arguments.push(constraint.wanted());
        used.push(*place);
    }
    if let (Access::Index(n), Some(Op::Eq)) = (access, exact) {
        for (place, constraint) in &question.constraints {
            let Some(other) = constraint.column.filter(|other| *other != n) else { continue };
            let column = &definition.columns[other];
            let indexed = column.is_binary() && known.indices.contains(&column.name);
            if indexed && constraint.op == Op::Eq && constraint.binary {
                rows /= distinct(other);
                arguments.push(constraint.wanted());
                used.push(*place);
            }
        }
    }
    let rows = rows.max(1.0);
    let one_row = access == Access::Rowid && exact == Some(Op::Eq);
    let in_order = match access {
        Access::Rowid => true,
        // The rows of several values come mixed, and those that equal a number may be text. In UTF-16,
        // text has another order.
        Access::Index(n) => {
            let points = arguments.iter().any(|wanted| matches!(wanted.op, Op::Eq | Op::In));
            definition.utf8 && !(points && (exact.is_none() || definition.columns[n].affinity == Affinity::Blob))
        }
    };
    let (consumes_order, descending) = match question.order.as_slice() {
        [] => (false, false),
        _ if one_row => (true, false),
        [(column, descending)] if in_order && own(*column) => (true, *descending),
        _ => (false, false),
    };
    let sorted_anyway = question.order.is_empty() || consumes_order;
    let trips = match access {
        Access::Rowid => 1.0,
        Access::Index(_) => 2.0,
    };
    let cost = TRIP * (trips + rows / BATCH) + rows * if access == Access::Rowid { 1.0 } else { 1.1 };
    let sorting = if sorted_anyway { 0.0 } else { rows * rows.log2().max(1.0) + rows };
    for (place, constraint) in question.constraints.iter().filter(|(_, c)| sorted_anyway && c.op.is_count()) {
        arguments.push(Wanted { column: None, ..constraint.wanted() });
        used.push(*place);
    }
    let unique = one_row;
    let plan = Plan { access, descending, ordered: consumes_order, arguments };
    (cost + sorting, Answer { plan, used, consumes_order, cost, rows: rows as u64, unique })
}

impl Constraint {
    fn wanted(&self) -> Wanted {
        Wanted { column: self.column, op: self.op, literal: self.literal }
    }
}

impl Plan {
    /// `idxNum`.
    pub(crate) fn number(&self) -> i32 {
        let column = match self.access {
            Access::Rowid => 0,
            Access::Index(n) => n as i32 + 1,
        };
        i32::from(self.descending) | i32::from(self.ordered) << 1 | column << 2
    }

    /// `idxStr`: the arguments for the cursor up to the first blank, then words for
    /// `EXPLAIN QUERY PLAN`.
    pub(crate) fn text(&self, definition: &Definition) -> String {
        let mut code = String::new();
        let mut words = Vec::new();
        for Wanted { column, op, literal } in &self.arguments {
            let (_, letter, word) = OPS.iter().find(|(known, _, _)| known == op).copied().unwrap_or(OPS[0]);
            let number = column.map_or_else(String::new, |column| column.to_string());
            code.push_str(&format!("{number}{letter}{}", if *literal { LITERAL } else { "" }));
            let name = column.map_or("rowid", |column| &definition.columns[column].name);
            words.push(if op.is_count() { word.to_owned() } else { format!("{name}{word}") });
        }
        let way = match self.access {
            Access::Rowid if words.is_empty() => "scan".to_owned(),
            Access::Rowid => "rowid".to_owned(),
            Access::Index(n) => format!("index {}", definition.columns[n].name),
        };
        let condition = if words.is_empty() { String::new() } else { format!(" ({})", words.join(" AND ")) };
        let order = match (self.ordered, self.descending) {
            (false, _) => "",
            (true, false) => " in order",
            (true, true) => " in descending order",
        };
        format!("{code} {way}{condition}{order}")
    }

    /// The opposite of [`Plan::number`] and [`Plan::text`]; `None` if they are not of this table.
    pub(crate) fn parse(number: i32, text: &str, columns: usize) -> Option<Plan> {
        let access = match usize::try_from(number >> 2).ok()? {
            0 => Access::Rowid,
            n if n <= columns => Access::Index(n - 1),
            _ => return None,
        };
        let mut arguments: Vec<Wanted> = Vec::new();
        let mut column = String::new();
        for c in text.split(' ').next()?.chars() {
            if c.is_ascii_digit() {
                column.push(c);
                continue;
            }
            if LITERAL.contains(c) {
                arguments.last_mut()?.literal = true;
                continue;
            }
            let (op, _, _) = OPS.iter().find(|(_, letter, _)| *letter == c)?;
            let number = if column.is_empty() { None } else { Some(column.parse().ok().filter(|n| *n < columns)?) };
            arguments.push(Wanted { column: number, op: *op, literal: false });
            column.clear();
        }
        Some(Plan { access, descending: number & 1 != 0, ordered: number & 2 != 0, arguments })
    }
}
