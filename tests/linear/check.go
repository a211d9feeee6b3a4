package main

import (
	"math"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// step is the register: its value is the state.
func step(state, input, _ any) (bool, any) {
	value, o := state.(int64), input.(*operation)
	if expected, certain := o.observed(); certain && value != expected {
		return false, state
	}
	switch {
	case o.Op == "read":
		return true, state
	case o.missed():
		return value != o.Old, state
	case o.Op == "cas" && value != o.Old: // unknown
		return true, state
	}
	return true, o.Value
}

// seen are the values that some operation had before it, or, if unknown, may have had.
func seen(ops []*operation) map[int64]bool {
	values := map[int64]bool{}
	for _, o := range ops {
		if value, certain := o.observed(); certain {
			values[value] = true
		} else if o.Op == "cas" {
			values[o.Old] = true
		}
	}
	return values
}

func anyMissed(ops []*operation) bool {
	for _, o := range ops {
		if o.missed() {
			return true
		}
	}
	return false
}

// core leaves out unknown writes whose value nobody saw: each may be put at the end, where it says nothing, and would
// double what a search through a bad history has to try. For a refused cas such a value may have been the
// reason, so it leaves out those as well. If the whole can be explained so can the core; the other way round
// only if nothing was refused.
func core(ops []*operation) []*operation {
	values := seen(ops)
	var kept []*operation
	for _, o := range ops {
		if !o.missed() && (!o.unknown() || values[o.Value]) {
			kept = append(kept, o)
		}
	}
	return kept
}

// checker asks porcupine; expired is set once it did not come to an end.
type checker struct {
	limit   time.Duration
	expired bool
}

func (c *checker) ask(ops []*operation) bool {
	model := porcupine.Model{Init: func() any { return int64(0) }, Step: step}
	var list []porcupine.Operation
	for _, o := range ops {
		list = append(list, porcupine.Operation{ClientId: o.Client, Input: o, Call: o.Call, Return: o.Return})
	}
	result := porcupine.CheckOperationsTimeout(model, list, c.limit)
	c.expired = c.expired || result == porcupine.Unknown
	return result != porcupine.Illegal
}

// explains: there is an order of the operations, each at a moment between its call and its return.
func (c *checker) explains(ops []*operation) bool {
	return c.ask(core(ops)) && (!anyMissed(ops) || c.ask(ops))
}

func byCall(ops []*operation) []*operation {
	sorted := append([]*operation(nil), ops...)
	sort.SliceStable(sorted, func(i, j int) bool { return sorted[i].Call < sorted[j].Call })
	return sorted
}

// until is what had been seen at a moment: what had not returned by then is unknown.
func until(ops []*operation, moment int64) []*operation {
	var seen []*operation
	for _, o := range ops {
		if o.Call > moment {
			continue
		}
		if o.Return > moment {
			if o.Op == "read" || o.missed() {
				continue
			}
			pending := *o
			pending.forget()
			o = &pending
		}
		seen = append(seen, o)
	}
	return seen
}

// since leaves out what had returned before a moment, but for writes whose value is needed later. If the whole could
// be explained, so could this: between a write and those who saw its value there was no other one. So that it stays so,
// what is there only for what it wrote, and a cas that may not have happened, counts as a blind write, and a
// refused cas is left out.
func since(ops []*operation, moment int64) []*operation {
	var late, kept []*operation
	for _, o := range ops {
		if o.Return >= moment && !o.missed() {
			late = append(late, o)
		}
	}
	needed := seen(late)
	for _, o := range ops {
		early := o.Return < moment
		if o.missed() || early && !(o.mayWrite() && needed[o.Value]) {
			continue
		}
		if early || o.Op == "cas" && o.unknown() {
			write := *o
			write.Op, write.Output = "write", nil
			o = &write
		}
		kept = append(kept, o)
	}
	return kept
}

// smallest leaves out what is not needed for it to be impossible: reads, and writes whose value nobody saw.
func (c *checker) smallest(ops []*operation) []*operation {
	if len(ops) > 300 || anyMissed(ops) {
		return ops
	}
	for before := len(ops) + 1; len(ops) < before; {
		before = len(ops)
		for i := len(ops) - 1; i >= 0; i-- {
			rest := append(ops[:i:i], ops[i+1:]...)
			if !(ops[i].mayWrite() && seen(rest)[ops[i].Value]) && !c.explains(rest) {
				ops = rest
			}
		}
	}
	return ops
}

// window is the part of a history that cannot be explained: the shortest beginning of it, and of that the
// shortest end, and of that what is needed for it.
func (c *checker) window(ops []*operation) []*operation {
	var returns, calls []int64
	for _, o := range ops {
		if !o.unknown() {
			returns = append(returns, o.Return)
		}
		calls = append(calls, o.Call)
	}
	sort.Slice(returns, func(i, j int) bool { return returns[i] < returns[j] })
	sort.Slice(calls, func(i, j int) bool { return calls[i] < calls[j] })
	end := sort.Search(len(returns), func(i int) bool {
		return !c.explains(until(ops, returns[i]))
	})
	if end == len(returns) {
		return ops
	}
	ops = until(ops, returns[end])
	start := sort.Search(len(calls), func(i int) bool {
		return c.explains(since(ops, calls[i]))
	})
	if start == 0 { // only a refused cas makes it impossible
		return ops
	}
	return c.smallest(since(ops, calls[start-1]))
}

// overwritten tells for each value since when it had certainly been replaced: when a write returned that was called
// after its own had returned.
func overwritten(ops []*operation) map[int64]int64 {
	var writes []*operation
	for _, o := range byCall(ops) {
		if o.mayWrite() && !o.unknown() {
			writes = append(writes, o)
		}
	}
	// first[i]: the earliest return among writes i and later
	first := make([]int64, len(writes)+1)
	first[len(writes)] = neverReturned
	for i := len(writes) - 1; i >= 0; i-- {
		first[i] = min(first[i+1], writes[i].Return)
	}
	replaced := map[int64]int64{0: first[0]}
	for _, o := range writes {
		next := sort.Search(len(writes), func(i int) bool { return writes[i].Call > o.Return })
		replaced[o.Value] = first[next]
	}
	return replaced
}

// plain counts what does not fit among the reads that waited for no standby. Stale: it read a value that had been
// replaced by an acknowledged write before the read was called. Lost: there is no order with it for another
// reason, as when it read what was never acknowledged and is not there any more. A refused cas is not looked at: it
// says only which value was not there.
func (c *checker) plain(certain, plain []*operation) (stale, lost int) {
	replaced := overwritten(certain)
	var fitting []*operation
	for _, o := range byCall(plain) {
		value, read := o.observed()
		since, there := replaced[value]
		switch {
		case read && there && since < o.Call:
			stale++
		case read:
			fitting = append(fitting, o)
		}
	}
	return stale, c.misfits(certain, fitting)
}

// misfits takes out the operations that, one by one in the order of their calls, have no place among those before.
func (c *checker) misfits(certain, plain []*operation) int {
	count := 0
	for {
		bad := sort.Search(len(plain), func(i int) bool {
			return !c.explains(append(certain[:len(certain):len(certain)], plain[:i+1]...))
		})
		if bad == len(plain) || c.expired {
			return count
		}
		count++
		plain = append(plain[:bad:bad], plain[bad+1:]...)
	}
}

func span(ops []*operation) (from, to int64) {
	from, to = math.MaxInt64, math.MinInt64
	for _, o := range ops {
		from = min(from, o.Call)
		to = max(to, o.Call)
		if !o.unknown() {
			to = max(to, o.Return)
		}
	}
	return from, to
}
