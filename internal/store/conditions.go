package store

import (
	"strconv"
	"strings"
)

// conditions are the WHERE clause of a query of which people say parts only, and its arguments. Only what is asked for is
// in it: the plan of a statement that leaves it open whether there is a condition can use no index for it. The words come
// from the code alone, values are always arguments.
type conditions struct {
	sql  string
	args []any
}

// where begins with a condition that always holds.
func where(condition string, values ...any) *conditions {
	c := &conditions{}
	c.sql = ` WHERE ` + c.number(condition, values)
	return c
}

// and adds a condition. Each $? of it stands for the next of the values.
func (c *conditions) and(condition string, values ...any) {
	c.sql += ` AND ` + c.number(condition, values)
}

// equal adds that a column has a value, unless the value is empty.
func (c *conditions) equal(column, value string) {
	if value != "" {
		c.and(column+` = $?`, value)
	}
}

// then adds what follows the conditions, such as the order and the bounds of a page, with values as those of and.
func (c *conditions) then(clause string, values ...any) { c.sql += ` ` + c.number(clause, values) }

func (c *conditions) number(sql string, values []any) string {
	for _, value := range values {
		c.args = append(c.args, value)
		sql = strings.Replace(sql, "$?", "$"+strconv.Itoa(len(c.args)), 1)
	}
	return sql
}
