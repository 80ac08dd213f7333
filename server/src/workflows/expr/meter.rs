//! The budget of an evaluation, and the functions which spend it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use cel::common::types::{CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelString, Kind};
use cel::common::value::{CowVal, Val};
use cel::{Context, ExecutionError, FunctionContext};
use regex::{Regex, RegexBuilder};

use super::error::{ErrorKind, ExprError};
use super::instrument::{DEEP, FLAT, HAYSTACK, KEY, MATCHES, RANGE, STEP, SUM};
use super::limits::{NODE_COST, WORK_LIMIT};

/// Longest pattern of `matches`.
const MAX_PATTERN_BYTES: usize = 1024;
/// Sizes of automata a pattern is tried with; the first which fits prices its use.
const AUTOMATON_BYTES: [u32; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];
/// Bytes of an automaton per unit a byte of text costs: a hostile pattern makes the engine visit
/// every state for every byte, some 10 ns per 128 bytes of automaton.
const AUTOMATON_BYTES_PER_UNIT: u64 = 128;
/// Compiled patterns an evaluation remembers.
const MAX_PATTERNS: usize = 32;

type Outcome<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;
type Intrinsic = for<'b, 'v> fn(&Meter, Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v>;
type Function = Box<dyn for<'b, 'v> Fn(&mut FunctionContext<'b, 'v>) -> Outcome<'b, 'v> + Send + Sync>;

/// What is left of an evaluation's budget.
pub(super) struct Meter {
    left: AtomicU64,
    exhausted: AtomicBool,
    /// The patterns compiled so far, with what a byte of text costs with them.
    patterns: Mutex<HashMap<String, (Regex, u64)>>,
}

impl Meter {
    pub(super) fn new() -> Self {
        Meter {
            left: AtomicU64::new(WORK_LIMIT),
            exhausted: AtomicBool::new(false),
            patterns: Mutex::new(HashMap::new()),
        }
    }

    /// Whether a charge was refused: the evaluation's result must not be used then, since some
    /// operators absorb errors.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted.load(Relaxed)
    }

    /// What is left.
    pub(super) fn left(&self) -> u64 {
        self.left.load(Relaxed)
    }

    fn spend(&self, units: u64) -> Result<(), ExecutionError> {
        let spent = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(units));
        spent.map(|_| ()).map_err(|_| {
            self.left.store(0, Relaxed);
            self.exhausted.store(true, Relaxed);
            ExecutionError::function_error("work limit", too_much_work())
        })
    }

    /// Charges for a value and all it contains; stops walking when the budget ends.
    fn spend_deep(&self, value: &dyn Val) -> Result<(), ExecutionError> {
        self.spend_flat(value)?;
        if let Some(list) = value.downcast_ref::<CelList>() {
            return list.iter().try_for_each(|item| self.spend_deep(item.as_ref()));
        }
        if let Some(map) = value.downcast_ref::<CelMap>() {
            return map.iter().try_for_each(|(key, value)| {
                self.spend(NODE_COST)?;
                self.spend_flat(key.inner())?;
                self.spend_deep(value.as_ref())
            });
        }
        Ok(())
    }

    fn spend_flat(&self, value: &dyn Val) -> Result<(), ExecutionError> {
        self.spend(NODE_COST + own_bytes(value))
    }

    /// The compiled `pattern`, and what a byte of text costs with it.
    fn pattern(&self, pattern: &str) -> Result<(Regex, u64), ExecutionError> {
        let mut patterns = self.patterns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = patterns.get(pattern) {
            return Ok(known.clone());
        }
        if pattern.len() > MAX_PATTERN_BYTES {
            let message = format!("a pattern has at most {MAX_PATTERN_BYTES} bytes");
            return Err(ExecutionError::function_error("matches", message));
        }
        let mut failure = None;
        for limit in AUTOMATON_BYTES {
            self.spend(u64::from(limit) * 2)?;
            match RegexBuilder::new(pattern).size_limit(limit as usize).build() {
                Ok(regex) => {
                    if patterns.len() >= MAX_PATTERNS {
                        patterns.clear();
                    }
                    let entry = (regex, u64::from(limit) / AUTOMATON_BYTES_PER_UNIT);
                    patterns.insert(pattern.to_owned(), entry.clone());
                    return Ok(entry);
                }
                Err(regex::Error::CompiledTooBig(_)) => {
                    failure = Some("the pattern is too large".to_owned());
                }
                Err(error) => {
                    failure = Some(format!("not a valid pattern: {error}"));
                    break;
                }
            }
        }
        let message = failure.unwrap_or_default();
        Err(ExecutionError::function_error("matches", message))
    }
}

/// The error of an evaluation which cost more than [`WORK_LIMIT`].
pub(super) fn too_much_work() -> ExprError {
    ExprError::new(
        ErrorKind::TooMuchWork,
        "evaluating takes too much work for values of this size",
    )
}

/// Lets the instrumented tree charge `meter` when evaluated in `context`.
pub(super) fn add_intrinsics(context: &mut Context<'_, '_>, meter: &Arc<Meter>) -> Result<(), ExprError> {
    let intrinsics: [(&str, Intrinsic); 8] = [
        (DEEP, deep),
        (FLAT, flat),
        (HAYSTACK, haystack),
        (KEY, key),
        (RANGE, range),
        (STEP, step),
        (SUM, sum),
        (MATCHES, matches),
    ];
    for (name, intrinsic) in intrinsics {
        let meter = Arc::clone(meter);
        let function: Function = Box::new(move |call| intrinsic(&meter, std::mem::take(&mut call.args)));
        context
            .add_function::<Function, _>(name, function)
            .map_err(|error| ExprError::new(ErrorKind::Evaluation, error.to_string()))?;
    }
    Ok(())
}

fn deep<'b, 'v>(meter: &Meter, args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let [value] = operands(args)?;
    meter.spend_deep(value.as_ref())?;
    Ok(value)
}

fn flat<'b, 'v>(meter: &Meter, args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let [value] = operands(args)?;
    meter.spend_flat(value.as_ref())?;
    Ok(value)
}

fn haystack<'b, 'v>(meter: &Meter, args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let [value] = operands(args)?;
    match value.get_type().kind() {
        Kind::List => meter.spend_deep(value.as_ref())?,
        _ => meter.spend_flat(value.as_ref())?,
    }
    Ok(value)
}

fn key<'b, 'v>(meter: &Meter, args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let [value] = operands(args)?;
    meter.spend_flat(value.as_ref())?;
    let kind = value.get_type().kind();
    let double = value.downcast_ref::<CelDouble>().map(|number| *number.inner());
    let usable = match kind {
        Kind::Boolean | Kind::Int | Kind::UInt | Kind::String => true,
        _ => double.is_some_and(|number| number.fract() == 0.0 && number.abs() < 1e15),
    };
    if usable {
        return Ok(value);
    }
    let message = format!("a value of type {} can not be an index", value.get_type().name());
    Err(ExecutionError::function_error("_[_]", message))
}

fn range<'b, 'v>(meter: &Meter, args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let [value] = operands(args)?;
    if let Some(map) = value.downcast_ref::<CelMap>() {
        map.keys().try_for_each(|key| {
            meter.spend(NODE_COST)?;
            meter.spend_flat(key.inner())
        })?;
        let mut keys: Vec<_> = map.keys().collect();
        keys.sort_unstable();
        let keys: Vec<_> = keys.into_iter().map(|key| key.inner().clone_as_boxed()).collect();
        return Ok(CowVal::owned(CelList::from(keys)));
    }
    if value.get_type().kind() == Kind::List {
        meter.spend_deep(value.as_ref())?;
        return Ok(value);
    }
    let message = format!("a value of type {} has no elements", value.get_type().name());
    Err(ExecutionError::function_error("comprehension", message))
}

fn step<'b, 'v>(meter: &Meter, args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let mut args = args.into_iter();
    let weight = args.next().and_then(|weight| {
        let weight = weight.downcast_ref::<CelInt>().map(|weight| *weight.inner());
        weight.and_then(|weight| u64::try_from(weight).ok())
    });
    meter.spend(weight.ok_or_else(ExecutionError::missing_argument_or_target)?)?;
    Ok(args.next().unwrap_or_else(|| CowVal::owned(CelBool::from(true))))
}

fn sum<'b, 'v>(meter: &Meter, args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    for operand in &args {
        meter.spend_deep(operand.as_ref())?;
    }
    let kind = args.first().map(|first| first.get_type().kind());
    if args.iter().any(|operand| Some(operand.get_type().kind()) != kind) {
        let types: Vec<_> = args.iter().map(|operand| operand.get_type().name()).collect();
        let mut types: Vec<_> = types.into_iter().map(str::to_owned).collect();
        types.dedup();
        return Err(ExecutionError::no_such_overload("_+_", types));
    }
    match kind {
        Some(Kind::String) => {
            let parts = args.iter().filter_map(|part| part.downcast_ref::<CelString>());
            let text: String = parts.map(|part| part.inner()).collect();
            Ok(CowVal::owned(CelString::from(text)))
        }
        Some(Kind::Bytes) => {
            let parts = args.iter().filter_map(|part| part.downcast_ref::<CelBytes>());
            let bytes: Vec<u8> = parts.flat_map(|part| part.inner().iter().copied()).collect();
            Ok(CowVal::owned(CelBytes::from(bytes)))
        }
        Some(Kind::List) => {
            let parts = args.iter().filter_map(|part| part.downcast_ref::<CelList>());
            let items = parts.flat_map(|part| part.iter().map(|item| item.clone_as_boxed()));
            Ok(CowVal::owned(CelList::from(items.collect::<Vec<_>>())))
        }
        _ => sum_pairwise(args),
    }
}

/// Adds scalars with the library's own operator, left to right.
fn sum_pairwise<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let mut operands = args.into_iter();
    let first = operands.next().ok_or_else(ExecutionError::missing_argument_or_target)?;
    operands.try_fold(first, |total, operand| {
        let types = || {
            let types = [total.get_type(), operand.get_type()];
            types.map(|known| known.name().to_owned()).to_vec()
        };
        let adder = total
            .as_adder()
            .ok_or_else(|| ExecutionError::no_such_overload("_+_", types()))?;
        Ok(CowVal::Owned(adder.add(operand.as_ref())?.into_owned()))
    })
}

fn matches<'b, 'v>(meter: &Meter, args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let [text, pattern] = operands(args)?;
    let (Some(text), Some(pattern)) = (text.downcast_ref::<CelString>(), pattern.downcast_ref::<CelString>()) else {
        let types = [text.get_type(), pattern.get_type()].map(|known| known.name().to_owned());
        return Err(ExecutionError::no_such_overload("matches", types.to_vec()));
    };
    let (regex, cost) = meter.pattern(pattern.inner())?;
    let bytes = text.inner().len() as u64;
    meter.spend(NODE_COST + bytes.saturating_mul(cost))?;
    Ok(CowVal::owned(CelBool::from(regex.is_match(text.inner()))))
}

fn operands<'b, 'v, const COUNT: usize>(args: Vec<CowVal<'b, 'v>>) -> Result<[CowVal<'b, 'v>; COUNT], ExecutionError> {
    let actual = args.len();
    args.try_into()
        .map_err(|_| ExecutionError::invalid_argument_count(COUNT, actual))
}

/// The bytes of a string or bytes value itself.
fn own_bytes(value: &dyn Val) -> u64 {
    if let Some(text) = value.downcast_ref::<CelString>() {
        return text.inner().len() as u64;
    }
    let bytes = value.downcast_ref::<CelBytes>();
    bytes.map_or(0, |bytes| bytes.inner().len() as u64)
}
