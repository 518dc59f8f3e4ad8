//! Just enough of SQL's surface to take apart what `pg_dump` and `pg_dumpall` write: quoting,
//! statements, and names in fixed places.

/// The text as an SQL string literal.
#[must_use]
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// The text as a quoted SQL name.
#[must_use]
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A piece of SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A word or number as written.
    Word(&'a str),
    /// A name in double quotes, quotes included.
    Quoted(&'a str),
    /// A string in any of the quotings, quotes included.
    Text(&'a str),
    /// One other character.
    Symbol(&'a str),
    /// White space or a comment.
    Gap(&'a str),
}

impl<'a> Token<'a> {
    /// As written.
    #[must_use]
    pub fn raw(self) -> &'a str {
        match self {
            Self::Word(raw) | Self::Quoted(raw) | Self::Text(raw) | Self::Symbol(raw) | Self::Gap(raw) => raw,
        }
    }

    /// The name that a word or a quoted name stands for.
    #[must_use]
    pub fn name(self) -> Option<String> {
        match self {
            Self::Word(raw) => Some(raw.to_lowercase()),
            Self::Quoted(raw) => Some(raw[1..raw.len() - 1].replace("\"\"", "\"")),
            _ => None,
        }
    }

    fn is_word(self, word: &str) -> bool {
        matches!(self, Self::Word(raw) if raw.eq_ignore_ascii_case(word))
    }
}

/// Cuts SQL into its pieces; together they are the whole text. What is not closed reaches to the
/// end.
pub fn tokens<'a>(mut sql: &'a str) -> impl Iterator<Item = Token<'a>> {
    std::iter::from_fn(move || {
        let first = sql.chars().next()?;
        let (length, make): (usize, fn(&'a str) -> Token<'a>) = match first {
            '"' => (quoted_end(sql, '"', false), Token::Quoted),
            '\'' => (quoted_end(sql, '\'', false), Token::Text),
            'e' | 'E' if sql[1..].starts_with('\'') => (1 + quoted_end(&sql[1..], '\'', true), Token::Text),
            '$' if dollar_end(sql).is_some() => (dollar_end(sql).unwrap_or(1), Token::Text),
            '-' if sql.starts_with("--") => (sql.find('\n').unwrap_or(sql.len()), Token::Gap),
            '/' if sql.starts_with("/*") => (comment_end(sql), Token::Gap),
            c if c.is_whitespace() => (run(sql, char::is_whitespace), Token::Gap),
            c if is_word(c) => (run(sql, is_word), Token::Word),
            c => (c.len_utf8(), Token::Symbol),
        };
        // A quoted name needs both of its quotes to be one.
        let (token, rest) = sql.split_at(length);
        sql = rest;
        let token = make(token);
        let unclosed = matches!(token, Token::Quoted(raw) if raw.len() < 2 || !raw.ends_with('"'));
        Some(if unclosed { Token::Symbol(token.raw()) } else { token })
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii() && !c.is_whitespace()
}

fn run(sql: &str, belongs: fn(char) -> bool) -> usize {
    sql.find(|c| !belongs(c)).unwrap_or(sql.len())
}

/// Where a text that begins with `quote` ends; the quote is doubled inside, or escaped by a
/// backslash.
fn quoted_end(sql: &str, quote: char, backslash: bool) -> usize {
    let mut chars = sql.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if backslash && c == '\\' {
            chars.next();
        } else if c == quote {
            match chars.peek() {
                Some((_, next)) if *next == quote => drop(chars.next()),
                _ => return at + 1,
            }
        }
    }
    sql.len()
}

/// The end of `$tag$ ... $tag$`, where it is one.
fn dollar_end(sql: &str) -> Option<usize> {
    let tag_end = sql[1..].find(|c: char| !c.is_alphanumeric() && c != '_')? + 1;
    let tag = sql[tag_end..].starts_with('$').then(|| &sql[..=tag_end])?;
    if sql[1..].starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    Some(sql[tag.len()..].find(tag).map_or(sql.len(), |at| at + 2 * tag.len()))
}

fn comment_end(sql: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < sql.len() {
        if sql[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if sql[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += sql[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    sql.len()
}

/// The statements of a script without their semicolons, comments and the backslash commands of
/// `psql`, which `pg_dumpall` and `pg_restore` write at the beginning of lines.
#[must_use]
pub fn statements(script: &str) -> Vec<String> {
    let (mut out, mut statement) = (Vec::new(), String::new());
    let mut in_command = false;
    for token in tokens(script) {
        if in_command {
            in_command = !token.raw().contains('\n');
            continue;
        }
        match token {
            Token::Symbol("\\") if statement.trim().is_empty() => in_command = true,
            Token::Symbol(";") => out.push(std::mem::take(&mut statement)),
            Token::Gap(raw) if raw.starts_with("--") || raw.starts_with("/*") => {}
            token => statement.push_str(token.raw()),
        }
    }
    out.push(statement);
    out.into_iter().map(|statement| statement.trim().to_owned()).filter(|statement| !statement.is_empty()).collect()
}

/// The statements of a script of `pg_restore`, each with kind and name of the object that the comment
/// before it names.
#[must_use]
pub fn objects(script: &str) -> Vec<(String, String)> {
    let (mut out, mut begin, mut position) = (Vec::new(), 0, 0);
    let mut object = "settings".to_owned();
    let mut take = |part: &str, object: &str| {
        out.extend(statements(part).into_iter().map(|statement| (object.to_owned(), statement)));
    };
    for token in tokens(script) {
        // -- Name: births; Type: TABLE; Schema: app; Owner: app
        let named = match token {
            Token::Gap(raw) => raw.strip_prefix("-- Name: ").and_then(|rest| rest.split_once("; Type: ")),
            _ => None,
        };
        if let Some((name, rest)) = named {
            take(&script[begin..position], &object);
            begin = position;
            let mut rest = rest.split("; ");
            let kind = rest.next().unwrap_or_default().to_lowercase();
            let schema = rest.next().and_then(|schema| schema.strip_prefix("Schema: ")).filter(|schema| *schema != "-");
            object = schema.map_or_else(|| format!("{kind} {name}"), |schema| format!("{kind} {schema}.{name}"));
        }
        position += token.raw().len();
    }
    take(&script[begin..], &object);
    out
}

/// The names and words of a statement, in order, gaps left out.
#[must_use]
pub fn words(statement: &str) -> Vec<Token<'_>> {
    tokens(statement).filter(|token| !matches!(token, Token::Gap(_))).collect()
}

/// Puts `new` in the place of the name `old` wherever it follows the word `DATABASE`.
#[must_use]
pub fn rename_database(sql: &str, old: &str, new: &str) -> String {
    let mut out = String::with_capacity(sql.len() + 32);
    let mut after_word = false;
    for token in tokens(sql) {
        if after_word && token.name().is_some_and(|name| name == old) {
            out.push_str(&ident(new));
        } else {
            out.push_str(token.raw());
        }
        if !matches!(token, Token::Gap(_)) {
            after_word = token.is_word("DATABASE");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_make_up_the_whole_text(sql in "[a-zE'\"$;/*\\\\\n é1-]{0,40}") {
            let whole: String = tokens(&sql).map(Token::raw).collect();
            prop_assert_eq!(whole, sql);
        }

        #[test]
        fn a_quoted_name_stands_for_itself(name in ".{0,20}") {
            let quoted = ident(&name);
            let found: Vec<_> = tokens(&quoted).collect();
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(found[0].name(), Some(name));
        }

        #[test]
        fn a_literal_is_one_text(text in ".{0,20}") {
            let sql = literal(&text);
            let found: Vec<_> = words(&sql);
            prop_assert!(matches!(found[..], [Token::Text(_)]), "{:?}", found);
        }
    }

    #[test]
    fn semicolons_and_backslashes_inside_of_texts_divide_nothing() {
        let script = "\\restrict abc\n\n-- it's; a comment\nSET a = 'x;y';\nCREATE ROLE \"o;d\\d\";\n\
                      COMMENT ON ROLE x IS E'it\\'s;';\nDO $f$ a; b $f$;\n\\unrestrict abc\n";
        let expected =
            ["SET a = 'x;y'", "CREATE ROLE \"o;d\\d\"", "COMMENT ON ROLE x IS E'it\\'s;'", "DO $f$ a; b $f$"];
        assert_eq!(statements(script), expected);
    }

    #[test]
    fn every_statement_of_a_script_knows_its_object() {
        let script = "SET a = 1;\n--\n-- Name: t; Type: TABLE; Schema: app; Owner: x\n--\n\nCREATE TABLE app.t (a int);\n\n\n\
                      ALTER TABLE app.t OWNER TO x;\n\n--\n-- Name: EXTENSION e; Type: COMMENT; Schema: -; Owner: \n--\n\n\
                      COMMENT ON EXTENSION e IS '-- Name: x; Type: y';\n\n";
        let expected = [
            ("settings", "SET a = 1"),
            ("table app.t", "CREATE TABLE app.t (a int)"),
            ("table app.t", "ALTER TABLE app.t OWNER TO x"),
            ("comment EXTENSION e", "COMMENT ON EXTENSION e IS '-- Name: x; Type: y'"),
        ];
        assert_eq!(objects(script), expected.map(|(object, statement)| (object.to_owned(), statement.to_owned())));
    }

    #[test]
    fn only_the_name_of_the_database_is_renamed() {
        let sql = "ALTER DATABASE events SET x TO 'DATABASE events';\n\
                   ALTER ROLE events IN DATABASE events SET a TO 'b';\nCOMMENT ON DATABASE \"events\" IS 'events';";
        let renamed = rename_database(sql, "events", "odd \"one\"");
        assert_eq!(
            renamed,
            "ALTER DATABASE \"odd \"\"one\"\"\" SET x TO 'DATABASE events';\n\
             ALTER ROLE events IN DATABASE \"odd \"\"one\"\"\" SET a TO 'b';\n\
             COMMENT ON DATABASE \"odd \"\"one\"\"\" IS 'events';"
        );
        assert_eq!(rename_database("ALTER DATABASE \"Events\"", "events", "x"), "ALTER DATABASE \"Events\"");
    }
}
