/* span: see span.h */
