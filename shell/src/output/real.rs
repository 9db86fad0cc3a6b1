//! Numbers as `sqlite3` 3.40 prints them, digit by digit.
//!
//! That program computes digits with the 80-bit `long double` of x86, so the last of its 20
//! digits are rounding errors of its own. They read back as the same value, but programs that
//! compare output see them. The steps of its `printf("%!.*g")` are therefore taken in the same
//! arithmetic here, whatever the processor is.

use std::cmp::Ordering;

/// The digits that are computed at most; zeros follow.
const COMPUTED_DIGITS: usize = 26;

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

/// The digits after the point without the zeros at the end, but at least one.
fn fraction(digits: &str) -> &str {
    match digits.trim_end_matches('0') {
        "" => "0",
        trimmed => trimmed,
    }
}

/// The significant digits of a number, and the power of ten of the first.
fn figures(r: f64, digits: usize) -> (String, i32) {
    if r == 0.0 {
        return ("0".repeat(digits), 0);
    }
    let (mut value, mut exponent) = normalised(r);
    value = value + Extended::from(rounder(digits));
    if value >= Extended::from(10.0) {
        value = value * Extended::from(0.1);
        exponent += 1;
    }
    let mut figures = String::with_capacity(digits);
    for place in 0..digits {
        if place >= COMPUTED_DIGITS {
            figures.push('0');
            continue;
        }
        let digit = value.whole();
        figures.push(char::from(b'0' + digit));
        value = value.minus(digit) * Extended::from(10.0);
    }
    (figures, exponent)
}

/// Half of the last digit.
fn rounder(digits: usize) -> f64 {
    const HALF: [f64; 10] = [5e-1, 5e-2, 5e-3, 5e-4, 5e-5, 5e-6, 5e-7, 5e-8, 5e-9, 5e-10];
    let places = digits - 1;
    (0..places / 10).fold(HALF[places % 10], |half, _| half * 1e-10)
}

/// The number scaled to at least 1 and less than 10, and the power of ten that was taken out.
fn normalised(r: f64) -> (Extended, i32) {
    let mut value = Extended::from(r);
    let mut exponent = 0;
    let mut scale = Extended::from(1.0);
    for (step, power) in [(1e100, 100), (1e10, 10), (10.0, 1)] {
        while value >= Extended::from(step) * scale {
            scale = scale * Extended::from(step);
            exponent += power;
        }
    }
    value = value / scale;
    while value < Extended::from(1e-8) {
        value = value * Extended::from(1e8);
        exponent -= 8;
    }
    while value < Extended::from(1.0) {
        value = value * Extended::from(10.0);
        exponent -= 1;
    }
    (value, exponent)
}

/// A number of the x87: `mantissa * 2^exponent`, the top bit of the mantissa set unless it is 0.
/// Not negative, and far from the limits of the exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extended {
    mantissa: u64,
    exponent: i32,
}

impl Extended {
    /// The nearest number to `wide * 2^exponent`; of two, the even one. The lowest bit of `wide`
    /// stands for all that was lost below it.
    fn rounded(wide: u128, exponent: i32) -> Self {
        if wide == 0 {
            return Extended { mantissa: 0, exponent: 0 };
        }
        let excess = 64 - wide.leading_zeros() as i32;
        if excess <= 0 {
            return Extended { mantissa: (wide << -excess) as u64, exponent: exponent + excess };
        }
        let kept = wide >> excess;
        let lost = wide & ((1 << excess) - 1);
        let up = match lost.cmp(&(1 << (excess - 1))) {
            Ordering::Less => 0,
            Ordering::Equal => kept & 1,
            Ordering::Greater => 1,
        };
        match u64::try_from(kept + up) {
            Ok(mantissa) => Extended { mantissa, exponent: exponent + excess },
            Err(_) => Extended { mantissa: 1 << 63, exponent: exponent + excess + 1 },
        }
    }

    /// The part before the point; the number is less than 10.
    fn whole(self) -> u8 {
        match u32::try_from(-self.exponent) {
            Ok(shift) if shift < 64 => (self.mantissa >> shift) as u8,
            _ => 0,
        }
    }

    /// The number less its part before the point, which is exact.
    fn minus(self, whole: u8) -> Self {
        if whole == 0 {
            return self;
        }
        let rest = u128::from(self.mantissa) - (u128::from(whole) << -self.exponent);
        Extended::rounded(rest, self.exponent)
    }
}

impl From<f64> for Extended {
    fn from(r: f64) -> Self {
        let bits = r.to_bits();
        let (stored, fraction) = ((bits >> 52) & 0x7ff, bits & ((1 << 52) - 1));
        match stored {
            0 => Extended::rounded(fraction.into(), -1074),
            _ => Extended::rounded((fraction | 1 << 52).into(), stored as i32 - 1075),
        }
    }
}

impl std::ops::Mul for Extended {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let product = u128::from(self.mantissa) * u128::from(other.mantissa);
        Extended::rounded(product, self.exponent + other.exponent)
    }
}

impl std::ops::Div for Extended {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        let (dividend, divisor) = (u128::from(self.mantissa) << 64, u128::from(other.mantissa));
        // Two bits more than a mantissa has, and one for all below them.
        let rest = (dividend % divisor) << 2;
        let quotient = (dividend / divisor) << 3 | (rest / divisor) << 1 | u128::from(rest % divisor != 0);
        Extended::rounded(quotient, self.exponent - other.exponent - 67)
    }
}

impl std::ops::Add for Extended {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (high, low) = if self >= other { (self, other) } else { (other, self) };
        if low.mantissa == 0 {
            return high;
        }
        let distance = (high.exponent - low.exponent).unsigned_abs();
        let base = u128::from(high.mantissa) << 62;
        let far = u128::from(low.mantissa) << 62;
        let (moved, lost) = match distance {
            0..128 => (far >> distance, far & ((1 << distance) - 1) != 0),
            _ => (0, true),
        };
        Extended::rounded((base + moved) << 1 | u128::from(lost), high.exponent - 63)
    }
}

impl PartialOrd for Extended {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(match (self.mantissa, other.mantissa) {
            (0, 0) => Ordering::Equal,
            (0, _) => Ordering::Less,
            (_, 0) => Ordering::Greater,
            _ => self.exponent.cmp(&other.exponent).then(self.mantissa.cmp(&other.mantissa)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_sqlite3_on_x86() {
        for (r, text) in [
            (0.1, "0.10000000000000000555"),
            (-1.0 / 3.0, "-0.33333333333333331482"),
            (12345678.9, "12345678.900000000372"),
            (1e-7, "9.9999999999999995472e-08"),
            (1e15, "1000000000000000.0"),
            (1e100, "1.0e+100"),
            (1.5e300, "1.5000000000000000071e+300"),
            (0.0, "0.0"),
        ] {
            assert_eq!(general(r, 20), text);
        }
    }

    #[test]
    fn twenty_digits_read_back_as_the_same_number() {
        for r in [f64::MAX, f64::MIN_POSITIVE, 5e-324, 0.1 + 0.2, 1.0 / 3.0, 1e23, 9007199254740993.0] {
            assert_eq!(general(r, 20).parse(), Ok(r));
        }
    }
}
