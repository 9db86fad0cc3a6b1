//! Formats numbers as SQLite's `printf("%!.*g")` does.

/// `%!.{digits}g` for a finite number: at least one digit on either side of the point.
pub fn general(r: f64, digits: usize) -> String {
    let sign = if r < 0.0 { "-" } else { "" };
    let (figures, exponent) = figures(r.abs(), digits);
    if exponent < -4 || exponent >= digits as i32 {
        let (first, rest) = figures.split_at(1);
        let mark = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{first}.{}e{mark}{:02}", fraction(rest), exponent.abs());
    }
    if exponent < 0 {
        let zeros = "0".repeat((-exponent - 1) as usize);
        return format!("{sign}0.{}", fraction(&(zeros + &figures)));
    }
    let (whole, rest) = figures.split_at(exponent as usize + 1);
    format!("{sign}{whole}.{}", fraction(rest))
}

/// The digits after the point without trailing zeros, but at least one.
fn fraction(digits: &str) -> &str {
    match digits.trim_end_matches('0') {
        "" => "0",
        trimmed => trimmed,
    }
}

/// The significant digits, correctly rounded, and the power of ten of the first.
fn figures(r: f64, digits: usize) -> (String, i32) {
    let scientific = format!("{r:.*e}", digits - 1);
    let (figures, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    (figures.replace('.', ""), exponent.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::general;

    #[test]
    fn numbers_look_as_in_sqlite() {
        for (r, digits, expected) in [
            (0.0, 15, "0.0"),
            (0.1, 15, "0.1"),
            (-1.0 / 3.0, 15, "-0.333333333333333"),
            (3.0, 15, "3.0"),
            (1e15, 15, "1.0e+15"),
            (1e14, 15, "100000000000000.0"),
            (1.5e-5, 15, "1.5e-05"),
            (0.00015, 15, "0.00015"),
            (9.995, 3, "9.99"),
            (0.1, 20, "0.10000000000000000555"),
        ] {
            assert_eq!(general(r, digits), expected);
        }
    }

    #[test]
    fn twenty_digits_read_back_as_the_same_number() {
        for r in [f64::MAX, f64::MIN_POSITIVE, 5e-324, 0.1 + 0.2, 1.0 / 3.0, 1e23, 9007199254740993.0] {
            assert_eq!(general(r, 20).parse(), Ok(r));
        }
    }
}
