/* pg: see pg.h */
