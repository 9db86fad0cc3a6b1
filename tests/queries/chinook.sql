-- Queries over the Chinook database, each with a total order, so that the rows of two answers can
-- be compared one by one. A comment with its name begins each; one statement follows.

-- name: artists with most albums
SELECT Artist.Name, count(*) AS Albums FROM Artist JOIN Album USING (ArtistId)
GROUP BY ArtistId ORDER BY Albums DESC, Artist.Name LIMIT 15;

-- name: artists without an album
SELECT Artist.Name FROM Artist LEFT JOIN Album USING (ArtistId) WHERE AlbumId IS NULL ORDER BY Artist.ArtistId;

-- name: tracks of each genre and their mean length
SELECT Genre.Name, count(TrackId), round(avg(Milliseconds) / 1000, 3) FROM Genre LEFT JOIN Track USING (GenreId)
GROUP BY GenreId ORDER BY 2 DESC, 1;

-- name: invoices by country
SELECT BillingCountry, count(*), round(sum(Total), 2) FROM Invoice GROUP BY 1 ORDER BY 3 DESC, 1;

-- name: customers and who looks after them
SELECT c.FirstName || ' ' || c.LastName, c.Country, e.FirstName || ' ' || e.LastName
FROM Customer c LEFT JOIN Employee e ON e.EmployeeId = c.SupportRepId ORDER BY c.CustomerId;

-- name: employees and their managers
SELECT e.LastName, e.Title, ifnull(m.LastName, '-') FROM Employee e LEFT JOIN Employee m ON m.EmployeeId = e.ReportsTo
ORDER BY e.EmployeeId;

-- name: reporting lines, recursive
WITH RECURSIVE line (EmployeeId, Path, Depth) AS (
    SELECT EmployeeId, LastName, 0 FROM Employee WHERE ReportsTo IS NULL
    UNION ALL
    SELECT e.EmployeeId, Path || ' > ' || e.LastName, Depth + 1 FROM Employee e JOIN line ON e.ReportsTo = line.EmployeeId
) SELECT Path, Depth FROM line ORDER BY Path;

-- name: months without and with invoices, recursive
WITH RECURSIVE month (First) AS (
    SELECT date(min(InvoiceDate), 'start of month') FROM Invoice
    UNION ALL
    SELECT date(First, '+1 month') FROM month WHERE First < (SELECT date(max(InvoiceDate), 'start of month') FROM Invoice)
) SELECT First, count(InvoiceId), round(ifnull(sum(Total), 0), 2) FROM month
LEFT JOIN Invoice ON date(InvoiceDate, 'start of month') = First GROUP BY First ORDER BY First;

-- name: the longest track of each genre
SELECT Genre.Name, Track.Name, max(Milliseconds) FROM Track JOIN Genre USING (GenreId) GROUP BY GenreId ORDER BY GenreId;

-- name: three best customers of each country
SELECT Country, LastName, Spent, Place FROM (
    SELECT c.Country, c.LastName, round(sum(i.Total), 2) AS Spent,
        row_number() OVER (PARTITION BY c.Country ORDER BY sum(i.Total) DESC, c.CustomerId) AS Place
    FROM Customer c JOIN Invoice i USING (CustomerId) GROUP BY c.CustomerId
) WHERE Place <= 3 ORDER BY Country, Place;

-- name: running total of sales
SELECT InvoiceId, round(sum(Total) OVER (ORDER BY InvoiceDate, InvoiceId), 2) FROM Invoice ORDER BY InvoiceId LIMIT 100;

-- name: rank, dense rank and percentage of albums by tracks
SELECT Title, Tracks, rank() OVER w, dense_rank() OVER w, round(percent_rank() OVER w, 5) FROM (
    SELECT Title, count(TrackId) AS Tracks FROM Album JOIN Track USING (AlbumId) GROUP BY AlbumId
) WINDOW w AS (ORDER BY Tracks DESC) ORDER BY Tracks DESC, Title LIMIT 40;

-- name: days between a customer's invoices
SELECT CustomerId, InvoiceDate, julianday(InvoiceDate) - julianday(lag(InvoiceDate) OVER w), lead(Total, 1, -1) OVER w
FROM Invoice WINDOW w AS (PARTITION BY CustomerId ORDER BY InvoiceDate, InvoiceId) ORDER BY CustomerId, InvoiceDate;

-- name: moving mean over three invoices
SELECT InvoiceId, round(avg(Total) OVER (ORDER BY InvoiceId ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING), 4)
FROM Invoice ORDER BY InvoiceId;

-- name: quartiles of track prices and lengths
SELECT Quartile, count(*), min(Milliseconds), max(Milliseconds) FROM (
    SELECT Milliseconds, ntile(4) OVER (ORDER BY Milliseconds, TrackId) AS Quartile FROM Track
) GROUP BY Quartile ORDER BY Quartile;

-- name: first and last track of each playlist by name
SELECT DISTINCT p.Name, first_value(t.Name) OVER w, last_value(t.Name) OVER w
FROM Playlist p JOIN PlaylistTrack USING (PlaylistId) JOIN Track t USING (TrackId)
WINDOW w AS (PARTITION BY PlaylistId ORDER BY t.Name, TrackId ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
ORDER BY p.PlaylistId;

-- name: tracks that nobody bought
SELECT count(*) FROM Track WHERE NOT EXISTS (SELECT 1 FROM InvoiceLine WHERE InvoiceLine.TrackId = Track.TrackId);

-- name: tracks bought twice
SELECT TrackId, Name FROM Track WHERE TrackId IN (SELECT TrackId FROM InvoiceLine GROUP BY TrackId HAVING count(*) > 1)
ORDER BY TrackId LIMIT 50;

-- name: artists on playlists, intersection
SELECT Artist.Name FROM Artist JOIN Album USING (ArtistId) JOIN Track USING (AlbumId) JOIN PlaylistTrack USING (TrackId)
WHERE PlaylistId = 1 INTERSECT
SELECT Artist.Name FROM Artist JOIN Album USING (ArtistId) JOIN Track USING (AlbumId) JOIN PlaylistTrack USING (TrackId)
WHERE PlaylistId = 5 ORDER BY 1;

-- name: countries of customers, difference
SELECT Country FROM Customer EXCEPT SELECT BillingCountry FROM Invoice WHERE Total > 15 ORDER BY 1;

-- name: all names, union
SELECT 'artist' AS Kind, Name FROM Artist WHERE Name LIKE 'A%' UNION SELECT 'genre', Name FROM Genre
UNION ALL SELECT 'media', Name FROM MediaType ORDER BY 1, 2;

-- name: sales by genre and year
SELECT Genre.Name, strftime('%Y', InvoiceDate) AS Year, sum(Quantity), round(sum(InvoiceLine.UnitPrice * Quantity), 2)
FROM InvoiceLine JOIN Invoice USING (InvoiceId) JOIN Track USING (TrackId) JOIN Genre USING (GenreId)
GROUP BY 1, 2 ORDER BY 1, 2;

-- name: sales of each employee
SELECT e.LastName, count(DISTINCT c.CustomerId), count(i.InvoiceId), round(total(i.Total), 2)
FROM Employee e LEFT JOIN Customer c ON c.SupportRepId = e.EmployeeId LEFT JOIN Invoice i USING (CustomerId)
GROUP BY e.EmployeeId ORDER BY e.EmployeeId;

-- name: invoices whose lines do not add up
SELECT InvoiceId FROM Invoice JOIN InvoiceLine USING (InvoiceId) GROUP BY InvoiceId
HAVING abs(sum(UnitPrice * Quantity) - max(Total)) > 0.001 ORDER BY 1;

-- name: composers with most tracks
SELECT Composer, count(*) FROM Track WHERE Composer IS NOT NULL GROUP BY Composer ORDER BY 2 DESC, 1 LIMIT 20;

-- name: words in track names, recursive
WITH RECURSIVE word (Word, Rest) AS (
    SELECT '', lower(Name) || ' ' FROM Track
    UNION ALL
    SELECT substr(Rest, 1, instr(Rest, ' ') - 1), substr(Rest, instr(Rest, ' ') + 1) FROM word WHERE Rest <> ''
) SELECT Word, count(*) FROM word WHERE length(Word) > 3 GROUP BY Word ORDER BY 2 DESC, 1 LIMIT 25;

-- name: albums as JSON
SELECT json_object('album', Title, 'tracks', json_group_array(Name)) FROM (
    SELECT Album.AlbumId, Title, Track.Name FROM Album JOIN Track USING (AlbumId) ORDER BY AlbumId, TrackId
) GROUP BY AlbumId ORDER BY AlbumId LIMIT 10;

-- name: playlists with the same number of tracks
SELECT a.Name, b.Name FROM Playlist a JOIN Playlist b ON a.PlaylistId < b.PlaylistId
WHERE (SELECT count(*) FROM PlaylistTrack WHERE PlaylistId = a.PlaylistId)
    = (SELECT count(*) FROM PlaylistTrack WHERE PlaylistId = b.PlaylistId)
ORDER BY a.PlaylistId, b.PlaylistId;

-- name: tracks longer than the mean of their genre
SELECT Track.TrackId, Track.Name FROM Track JOIN (
    SELECT GenreId, avg(Milliseconds) AS Mean FROM Track GROUP BY GenreId
) USING (GenreId) WHERE Milliseconds > 2 * Mean ORDER BY TrackId;

-- name: albums by several composers
SELECT Title, group_concat(DISTINCT Composer) FROM Album JOIN (SELECT * FROM Track ORDER BY TrackId) USING (AlbumId)
GROUP BY AlbumId HAVING count(DISTINCT Composer) > 10 ORDER BY Title;

-- name: cities with a customer and an employee
SELECT City FROM Customer WHERE City IN (SELECT City FROM Employee) GROUP BY City ORDER BY City;

-- name: customers and what they listen to
SELECT CustomerId, Genre.Name, count(*) AS Bought, sum(count(*)) OVER (PARTITION BY CustomerId)
FROM Customer JOIN Invoice USING (CustomerId) JOIN InvoiceLine USING (InvoiceId) JOIN Track USING (TrackId)
JOIN Genre USING (GenreId) GROUP BY CustomerId, GenreId ORDER BY CustomerId, Bought DESC, Genre.Name;

-- name: buyers of the same track
SELECT DISTINCT a.CustomerId, b.CustomerId, la.TrackId FROM InvoiceLine la
JOIN InvoiceLine lb ON la.TrackId = lb.TrackId AND la.InvoiceLineId < lb.InvoiceLineId
JOIN Invoice a ON a.InvoiceId = la.InvoiceId JOIN Invoice b ON b.InvoiceId = lb.InvoiceId
WHERE a.CustomerId <> b.CustomerId ORDER BY 1, 2, 3 LIMIT 60;

-- name: sizes by media type
SELECT MediaType.Name, sum(Bytes), max(Bytes), min(Bytes), count(*) FILTER (WHERE Bytes > 10000000)
FROM MediaType LEFT JOIN Track USING (MediaTypeId) GROUP BY MediaTypeId ORDER BY MediaTypeId;

-- name: every track by name
SELECT TrackId, Name, Composer, UnitPrice FROM Track ORDER BY Name COLLATE NOCASE DESC, TrackId;

-- name: all playlist entries
SELECT PlaylistId, TrackId FROM PlaylistTrack ORDER BY PlaylistId DESC, TrackId;
