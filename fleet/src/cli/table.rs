//! Tables on paper: figures to the right, as wide as the terminal, never wrapped. Pure.

use ratatui::text::Span;

use super::failure::printable;

/// What a colour says beside the text; never the only sign of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tint {
    /// Nothing in particular.
    #[default]
    Plain,
    /// A quantity to look at first.
    Figure,
    /// All is well.
    Good,
    /// Not as it should be.
    Doubtful,
    /// Wrong.
    Bad,
    /// Less important.
    Quiet,
    /// A head.
    Bold,
}

impl Tint {
    /// The code that begins it, ECMA-48 §8.3.117.
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Figure | Self::Doubtful => Some("33"),
            Self::Good => Some("32"),
            Self::Bad => Some("31"),
            Self::Quiet => Some("2"),
            Self::Bold => Some("1"),
        }
    }

    /// `text` in this colour.
    pub(super) fn paint(self, text: &str, colour: bool) -> String {
        match self.code() {
            Some(code) if colour && !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// One text of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    tint: Tint,
}

impl Cell {
    /// `text` in a colour.
    pub(super) fn tinted(text: impl AsRef<str>, tint: Tint) -> Self {
        Self { text: printable(text.as_ref()), tint }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::tinted(text, Tint::Plain)
    }
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    head: &'static str,
    figure: bool,
    /// Columns with a higher number go first if there is no room; 0 never goes.
    missed_last: u8,
    only_wide: bool,
    least: usize,
    grows: bool,
}

impl Column {
    /// Texts, to the left. They are cut if there is no room.
    pub(super) const fn text(head: &'static str) -> Self {
        Self { head, figure: false, missed_last: 0, only_wide: false, least: 0, grows: false }
    }

    /// Figures, to the right. They are never cut.
    pub(super) const fn figure(head: &'static str) -> Self {
        Self { figure: true, ..Self::text(head) }
    }

    /// At least so wide, so that it doesn't move with each figure.
    #[must_use]
    pub(super) const fn least(mut self, width: usize) -> Self {
        self.least = width;
        self
    }

    /// Takes the room that is left.
    #[must_use]
    pub(super) const fn grows(mut self) -> Self {
        self.grows = true;
        self
    }

    /// The column goes if there is no room; those with the highest `order` first.
    #[must_use]
    pub(super) const fn may_go(mut self, order: u8) -> Self {
        self.missed_last = order;
        self
    }

    /// Only with `-o wide`.
    #[must_use]
    pub(super) const fn wide(mut self) -> Self {
        self.only_wide = true;
        self
    }
}

/// How output looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Characters in a line; `None`: as many as needed.
    pub width: Option<usize>,
    /// All columns.
    pub wide: bool,
    /// Colours may be used.
    pub colour: bool,
}

/// Rows of texts and figures under heads.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    columns: Vec<Column>,
    heads: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// A text column is not made narrower than this while other columns can go.
const LEAST: usize = 12;
/// Between two columns.
const GAP: usize = 2;

impl Table {
    /// An empty one.
    pub(super) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), heads: columns.iter().map(|c| c.head.to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a column of figures under a head that is only known now.
    pub(super) fn add_figure(&mut self, head: &str) {
        self.columns.push(Column::figure(""));
        self.heads.push(printable(head));
    }

    /// Gives the column at `index` another head.
    pub(super) fn set_head(&mut self, index: usize, head: &str) {
        if let Some(place) = self.heads.get_mut(index) {
            head.clone_into(place);
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, each with its end.
    pub(super) fn render(&self, look: Look) -> String {
        let mut out = String::new();
        for line in self.lines(look) {
            for (text, tint) in line {
                out.push_str(&tint.paint(&text, look.colour));
            }
            out.push('\n');
        }
        out
    }

    /// The heads, then the rows, as texts and what they are tinted with. No line ends with spaces.
    pub(super) fn lines(&self, look: Look) -> Vec<Vec<(String, Tint)>> {
        let shown = self.layout(look);
        let heads = self.line(&shown, |i| (self.heads.get(i).map_or("", String::as_str), Tint::Bold));
        let row = |row: &Vec<Cell>| {
            self.line(&shown, |i| row.get(i).map_or(("", Tint::Plain), |c| (c.text.as_str(), c.tint)))
        };
        std::iter::once(heads).chain(self.rows.iter().map(row)).collect()
    }

    fn line<'a>(&self, shown: &[(usize, usize)], cell: impl Fn(usize) -> (&'a str, Tint)) -> Vec<(String, Tint)> {
        let mut line = Vec::new();
        let mut gap = 0;
        for &(index, width) in shown {
            let (text, tint) = cell(index);
            let text = fit(text, width);
            let pad = width.saturating_sub(columns_of(&text));
            let figure = self.columns.get(index).is_some_and(|c| c.figure);
            if text.is_empty() {
                gap += width + GAP;
                continue;
            }
            line.push((" ".repeat(gap + if figure { pad } else { 0 }), Tint::Plain));
            line.push((text, tint));
            gap = GAP + if figure { 0 } else { pad };
        }
        line
    }

    /// Which columns are shown, and how wide.
    fn layout(&self, look: Look) -> Vec<(usize, usize)> {
        let natural = |i: usize| {
            let head = self.heads.get(i).map_or(0, |h| columns_of(h)).max(self.columns.get(i).map_or(0, |c| c.least));
            self.rows.iter().filter_map(|row| row.get(i)).map(|c| columns_of(&c.text)).fold(head, usize::max)
        };
        let wanted = self.columns.iter().enumerate().filter(|(_, c)| look.wide || !c.only_wide);
        let mut shown: Vec<(usize, usize)> = wanted.map(|(i, _)| (i, natural(i))).collect();
        let Some(room) = look.width else { return shown };
        let total =
            |shown: &[(usize, usize)]| shown.iter().map(|s| s.1).sum::<usize>() + GAP * shown.len().saturating_sub(1);
        let texts = |shown: &[(usize, usize)], least: usize| {
            let cut = |s: &&(usize, usize)| self.columns.get(s.0).is_some_and(|c| !c.figure) && s.1 > least;
            shown.iter().filter(cut).max_by_key(|s| s.1).map(|s| s.0)
        };
        while total(&shown) > room {
            let longest = texts(&shown, LEAST);
            let goes = shown
                .iter()
                .filter_map(|s| self.columns.get(s.0).map(|c| (c.missed_last, s.0)))
                .filter(|c| c.0 > 0)
                .max();
            let narrower = match (longest, goes) {
                (Some(index), _) => index,
                (None, Some((_, index))) => {
                    shown.retain(|s| s.0 != index);
                    continue;
                }
                (None, None) => match texts(&shown, 1) {
                    Some(index) => index,
                    None => break,
                },
            };
            for place in shown.iter_mut().filter(|s| s.0 == narrower) {
                place.1 -= 1;
            }
        }
        let left = room.saturating_sub(total(&shown));
        if let Some(grows) = shown.iter_mut().find(|s| self.columns.get(s.0).is_some_and(|c| c.grows)) {
            grows.1 += left;
        }
        shown
    }
}

/// Columns of a terminal that `text` takes.
pub(super) fn columns_of(text: &str) -> usize {
    Span::raw(text).width()
}

/// `text` in at most `width` columns; the last one says if it was cut.
pub(super) fn fit(text: &str, width: usize) -> String {
    if columns_of(text) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut taken = 0;
    for c in text.chars() {
        taken += columns_of(c.encode_utf8(&mut [0; 4]));
        if taken >= width {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAPER: Look = Look { width: Some(30), wide: false, colour: false };

    fn example() -> Table {
        let columns =
            [Column::text("NAME"), Column::figure("W"), Column::figure("CPU %").may_go(1), Column::text("ID").wide()];
        let mut table = Table::new(&columns);
        table.row(["a".into(), "1.00 W".into(), "3".into(), "x".into()]);
        table.row(["日本".into(), Cell::tinted("120 W", Tint::Figure), "".into(), "y".into()]);
        table
    }

    #[test]
    fn figures_stand_to_the_right_and_lines_have_no_tail() {
        let text = example().render(PAPER);
        assert_eq!(text, "NAME       W  CPU %\na     1.00 W      3\n日本   120 W\n");
        let wide = example().render(Look { width: None, wide: true, ..PAPER });
        assert_eq!(wide.lines().nth(2), Some("日本   120 W         y"));
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let painted = example().render(Look { colour: true, ..PAPER });
        assert!(painted.contains("\x1b[33m120 W\x1b[0m"), "{painted:?}");
        let bare = ["\x1b[33m", "\x1b[1m", "\x1b[0m"].iter().fold(painted, |text, code| text.replace(code, ""));
        assert_eq!(bare, example().render(PAPER));
    }

    #[test]
    fn names_are_cut_before_columns_go_and_figures_never() {
        let mut table = example();
        table.row(["a-name-that-is-rather-long".into(), "3.00 kW".into(), "12".into(), "".into()]);
        assert!(table.render(PAPER).contains("a-name-that-i…  3.00 kW     12"), "{}", table.render(PAPER));
        let narrow = table.render(Look { width: Some(20), ..PAPER });
        assert!(!narrow.contains("CPU") && narrow.contains("3.00 kW"), "{narrow}");
    }

    #[test]
    fn what_agents_say_does_not_reach_the_terminal_as_commands() {
        assert_eq!(Cell::from("\x1b[2Jx\r\n").text, " [2Jx  ");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(names in proptest::collection::vec("\\PC{0,60}", 1..6), width in 20usize..90) {
            let mut table = example();
            for name in &names {
                table.row([name.into(), "999 mW".into(), "100".into(), name.into()]);
            }
            for line in table.render(Look { width: Some(width), ..PAPER }).lines() {
                prop_assert!(columns_of(line) <= width, "{line:?}");
            }
        }
    }
}
